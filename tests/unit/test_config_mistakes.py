"""What is wrong with a configuration is named before the edge starts: where, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import configobserve
from edgecache.config import Config, from_origin, load, read_address
from edgecache.yamlform import FormError, Node
from tests.unit.config_files import problems, written


def test_traces_without_their_packages_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configobserve, "installed", lambda: False)
    with pytest.raises(FormError, match=r":1:19: observe\.traces: .*pip install 'edgecache\[otel\]'"):
        load(written(tmp_path, "observe: {traces: {endpoint: 'http://127.0.0.1:4318/v1/traces'}}"))


@pytest.mark.parametrize(
    ("codings", "said"),
    [("[deflate]", "must be one of gzip, br, zstd"), ("[br, br]", "br is named twice"), ("true", "must be a list")],
)
def test_codings_are_checked(tmp_path: Path, codings: str, said: str) -> None:
    site = "sites: [{name: shop, hosts: [a.test], origins: ['http://127.0.0.1:1'], cache: {compress: %s}}]"
    (found,) = problems(tmp_path, site % codings)
    assert said in found


@pytest.mark.parametrize(
    ("key", "said"),
    [("compres", "did you mean compress?"), ("prefetsch", "did you mean prefetch?"), ("xyzzy", "known here: default_ttl")],
)
def test_a_misspelt_word_of_a_sites_cache_is_held_against_all_that_there_are(tmp_path: Path, key: str, said: str) -> None:
    site = "sites: [{name: shop, hosts: [a.test], origins: ['http://127.0.0.1:1'], cache: {%s: 1}}]"
    (found,) = problems(tmp_path, site % key)
    assert f"sites[0].cache.{key}: unknown key; {said}" in found
    assert ("esi_undeclared, compress" in found) == (key == "xyzzy")


@pytest.mark.parametrize(
    ("state", "disk", "right"),
    [
        ("state", "state", False),
        ("state", ".", False),
        ("a/state", "a", False),
        ("x/../state", "state", False),
        ("state", "state/disk", True),
        ("state", "disk", True),
        ("state", "stat", True),
    ],
)
def test_a_disk_tier_does_not_hold_the_state(tmp_path: Path, state: str, disk: str, right: bool) -> None:
    """Whoever wants room removes the tier's directory."""
    text = f"state: {state}\ncache: {{disk: {{path: {disk}, bytes: 16MiB}}}}\n"
    if right:
        config = load(written(tmp_path, text))
        with pytest.raises(FormError, match=r"--state: the disk tier's directory .* holds the state"):
            config.overridden(state=tmp_path / disk / "below")
    else:
        (found,) = problems(tmp_path, text)
        assert found.startswith(":2:") and "holds the state" in found


@pytest.mark.parametrize("text", ["state: ''", "cache: {disk: {path: ' ', bytes: 16MiB}}", "log: {access: ''}"])
def test_an_empty_path_is_not_the_files_own_directory(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert "must be a path, not empty" in found


def test_every_mistake_is_named_at_once_with_its_place(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
listne: 127.0.0.1:80
cache: {memory: 12, max_varaints: 3}
serve:
  head_timeout: fast
  edge_id: a b
sites:
  - name: Shop
    hosts: ["shop.example:80"]
    origins: ["ftp://x"]
    cache: {heuristc: true}
    limits: {cpu: 3s}
""",
    )
    assert [line.split(" ")[0] for line in found] == [
        ":1:1:",
        ":2:17:",
        ":2:21:",
        ":4:17:",
        ":5:12:",
        ":7:11:",
        ":8:13:",
        ":9:15:",
        ":10:13:",
        ":11:13:",
    ]
    assert "listne: unknown key; did you mean listen?" in found[0]
    assert "cache.memory: '12' has no unit" in found[1]
    assert "sites[0].cache.heuristc: unknown key; did you mean heuristic?" in found[8]
    assert "sites[0].limits: wall is below cpu" in found[9]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- listen", ":1:1: must be a mapping (key: value), not a list"),
        ("listen: 8080", ":1:9: listen: must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, not '8080'"),
        ("listen: ::1:80", ":1:9: listen: must be HOST:PORT"),
        ("listen: '*:80'", ":1:9: listen: must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080; '*' is no host"),
        ("listen: a:99999", ":1:9: listen: must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080; the port"),
        ("listen: 127.0.0.1:8081", ":1:1: listens on 127.0.0.1:8081, as the edge itself does"),
        ("cache: 3", ":1:8: cache: must be a mapping (key: value), not '3'"),
        ("control: {metrics: {public: 1}}", ":1:29: control.metrics.public: "),
        ("control: {metrics: public}", ":1:20: control.metrics: "),
        ("control: {listen: 0.0.0.0:8081}", ":1:10: control: 0.0.0.0 is not a loopback address"),
        ("control: {tls: {certificate: no.pem, key: no.key}}", ":1:30: control.tls.certificate: "),
        ("control: {tls: {certificate: no.pem}}", ":1:16: control.tls: needs the key key"),
        ("control: {bundles: {file: 3}}", ":1:21: control.bundles.file: unknown key; did you mean files?"),
        ("sandbox: {engine: qemu}", ":1:19: sandbox.engine: must be one of auto, unicorn, kvm, not 'qemu'"),
        ("sandbox: {require_jail: [seccmp]}", ":1:26: sandbox.require_jail[0]: must be one of"),
        ("sandbox: {quarantine: {first: 1h}}", ":1:23: sandbox.quarantine: longest is below first"),
        ("sandbox: {workers: 4, max_workers: 2}", ":1:10: sandbox: max_workers (2) is below workers (4)"),
        ("observe: {trace: {}}", ":1:11: observe.trace: "),
        ("observe: {traces: {sample: 1}}", ":1:19: observe.traces: needs the key endpoint"),
        ("observe: {traces: {endpoint: 'http://a:b@c/'}}", ":1:30: observe.traces.endpoint: must be the URL of a collector"),
        ("observe: {traces: {endpoint: 'http://a', sample: 2}}", ":1:50: observe.traces.sample: must be "),
        ("log: {sample: 1.5}", ":1:15: log.sample: must be "),
        ("log: {sample_sites: {shop: all}}", ":1:28: log.sample_sites.shop: must be "),
        ("log: {format: text}", ":1:15: log.format: must be one of json, not 'text'"),
        ("log: {access: no/such/dir/a.log}", ":1:15: log.access: the directory "),
        ("log: {access: .}", ":1:15: log.access: "),
        (
            "listen: 0.0.0.0:80\nsites: [{name: a, hosts: [a], origins: ['http://localhost/']}]",
            ":2:41: sites[0].origins[0]: is this edge itself, which listens on 0.0.0.0:80",
        ),
        ("sites: {}", ":1:8: sites: must be a list, not a mapping"),
        ("sites: [{name: a}]", ":1:9: sites[0]: needs the keys hosts, origins"),
        ("sites: [{name: a, hosts: [], origins: [http://a]}]", ":1:26: sites[0].hosts: must hold at least 1 values"),
        (
            "sites: [{name: a, hosts: [a], origins: ['http://a'], limits: {memory: 5000001B}}]",
            ":1:71: sites[0].limits.memory: must be a multiple of 4KiB",
        ),
        (
            "sites: [{name: a, hosts: [a], origins: ['http://a'], limits: {edge_calls: 1}}]",
            ":1:62: sites[0].limits: edge_calls is below sub_requests",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text)[0].startswith(expected)


def test_a_host_and_a_name_belong_to_one_site(tmp_path: Path) -> None:
    site = "{name: %s, hosts: [%s], origins: ['http://a']}"
    text = f"sites:\n - {site % ('one', 'a.test, b.test')}\n - {site % ('one', 'c.test')}\n - {site % ('two', 'B.test')}\n"
    assert problems(tmp_path, text) == [
        ":3:11: sites[1].name: 'one' is already the name of the site in line 2",
        ":4:24: sites[2].hosts[0]: b.test is already a host of site 'one'",
    ]


@pytest.mark.parametrize("url", ["http://user:secret@a", "http://a@b:80", "https://secret@a/"])
def test_a_url_with_a_password_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    (found,) = problems(tmp_path, f"sites: [{{name: a, hosts: [a], origins: ['{url}']}}]")
    assert "must hold no user name" in found
    assert "secret" not in found
    with pytest.raises(FormError, match="--origin: must hold no user name") as caught:
        from_origin(url)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = read_address(Node("x", 1, 1, "listen", text))
    except FormError:
        return
    assert read_address(Node("x", 1, 1, "listen", str(address))) == address


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("listen", "80", "^--listen: must be HOST:PORT"),
        ("control", "0.0.0.0:8081", "^--control: 0.0.0.0 is not a loopback address"),
        ("control", "127.0.0.1:8080", "^--control: listens on 127.0.0.1:8080, as the edge itself does"),
        ("engine", "quemu", "^--engine: must be one of auto, unicorn, kvm"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: str, message: str) -> None:
    with pytest.raises(FormError, match=message):
        Config().overridden(**{option: value})  # type: ignore[arg-type]


def test_an_origin_that_is_the_edge_itself() -> None:
    with pytest.raises(FormError, match=r"^--listen: an origin is this edge itself, which listens on 127\.0\.0\.1:8000"):
        from_origin("http://127.0.0.1:8000").overridden(listen="127.0.0.1:8000")
    with pytest.raises(FormError, match=r"^--origin: an origin is this edge itself"):
        from_origin("http://127.0.0.1:8080").overridden()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "key.pem").mkdir()
    found = problems(tmp_path, "control: {tls: {certificate: edge.yaml, key: key.pem}}")
    assert found == [f":1:46: control.tls.key: {tmp_path}/key.pem cannot be read: Is a directory"]


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    found = problems(tmp_path, "control: {tls: {certificate: edge.yaml, key: edge.yaml}}")
    assert found[0].startswith(":1:10: control: cannot load the TLS certificate")
