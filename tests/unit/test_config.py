from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import config, configobserve, configwords, siteform
from edgecache.config import Address, Config, from_origin, load, read_address
from edgecache.control import words
from edgecache.control.upstreamwords import SECTIONS
from edgecache.policy.upstream import HedgeRule, Origin
from edgecache.sites import Cluster
from edgecache.yamlform import FormError, Node
from sandbox.jail import Layer
from sandbox.policies import Isolation

CONFIGS = Path(__file__).parents[2] / "configs"


def written(directory: Path, text: str) -> Path:
    path = directory / "edge.yaml"
    path.write_text(text)
    return path


def problems(directory: Path, text: str) -> list[str]:
    path = written(directory, text)
    with pytest.raises(FormError) as caught:
        load(path)
    return [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "# nothing yet\n")
    loaded = load(path)
    expected = Config(source=path, control=dataclasses.replace(Config().control, config_file=path))
    assert loaded == expected
    assert (str(loaded.listen), loaded.control.host, loaded.control.port) == ("127.0.0.1:8080", "127.0.0.1", 8081)


def test_every_section_is_read(tmp_path: Path) -> None:
    loaded = load(
        written(
            tmp_path,
            """
listen: "[::1]:0"
state: state
control: {listen: 127.0.0.1:9000, metrics: {public: true}, body: 1MiB, verify_timeout: 10s, bundles: {files: 20},
          logs: {memory: 1MiB}, values: {key: 64B}}
cache: {memory: 1GiB, max_variants: 8, max_entry_share: 0.25}
sandbox:
  {engine: unicorn, workers: 2, max_workers: 4, slice: 2ms, isolation: generator, require_jail: [seccomp, landlock],
   quarantine: {first: 2s}}
serve: {max_target: 4KiB, head_timeout: 5s, edge_id: fra-1}
upstream: {connect_timeout: 500ms, first_byte_timeout: 10s}
log: {access: access.log, format: json, queue: 500, query: false, sample: 0.1, sample_sites: {shop: 1}, slow: 250ms}
observe: {traces: {endpoint: "http://127.0.0.1:4318/v1/traces", sample: 0.5, follow_clients: true}}
sites:
  - name: shop
    hosts: [Shop.Example, "*.shop.example"]
    origins: ["http://127.0.0.1:8090/", "https://[::1]"]
    weight: 3
    cache: {default_ttl: 1m, vary: [Accept-Language], tags: [shop], max_object: 1MiB, honour_client_reload: true,
            forward_ranges: true, esi: true, esi_undeclared: false, compress: [br, gzip]}
    limits: {cpu: 100ms, memory: 128MiB}
""",
        )
    )
    assert loaded.listen == Address("::1", 0)
    assert str(loaded.listen) == "[::1]:0"
    assert loaded.state_dir == loaded.control.state_dir == tmp_path / "state"
    assert (loaded.control.port, loaded.control.body_bytes, loaded.control.verify_seconds) == (9000, 1 << 20, 10.0)
    assert loaded.control.metrics_public
    assert (loaded.control.bundles.files, loaded.control.logs.bytes, loaded.control.values.key_bytes) == (20, 1 << 20, 64)
    assert (loaded.cache.memory_bytes, loaded.cache.max_variants, loaded.cache.max_entry_share) == (1 << 30, 8, 0.25)
    sandbox = loaded.sandbox
    assert (sandbox.engine, sandbox.dispatch.slots, sandbox.dispatch.fleet.max_workers) == ("unicorn", 2, 4)
    assert (sandbox.dispatch.slice_ns, sandbox.dispatch.quarantine.first_s) == (2_000_000, 2.0)
    assert (sandbox.isolation, sandbox.jail.required) == (Isolation.GENERATOR, {Layer.SECCOMP, Layer.LANDLOCK})
    assert (loaded.serve.max_target_bytes, loaded.serve.head_timeout, loaded.serve.edge_id) == (4096, 5.0, "fra-1")
    assert (loaded.upstream.connect_timeout, loaded.upstream.first_byte_timeout) == (0.5, 10.0)
    assert (loaded.log.access, loaded.log.queue, loaded.log.query) == (tmp_path / "access.log", 500, False)
    assert (loaded.log.sample, loaded.log.sample_sites, loaded.log.slow_seconds) == (0.1, {"shop": 1.0}, 0.25)
    traces = loaded.observe.traces
    assert traces is not None
    assert (traces.endpoint, traces.sample, traces.follow_clients) == ("http://127.0.0.1:4318/v1/traces", 0.5, True)
    (site,) = loaded.sites
    assert site.hosts == ("shop.example", "*.shop.example")
    assert site.origins == ("http://127.0.0.1:8090", "https://[::1]")
    assert (site.weight, site.from_config, site.rule.default_ttl, site.rule.vary) == (3, True, 60.0, ("Accept-Language",))
    assert (site.rule.max_object_bytes, site.rule.honour_client_reload, site.rule.forward_ranges) == (1 << 20, True, True)
    assert site.rule.compress == ("br", "gzip")
    assert (site.ceiling.cpu_ns, site.ceiling.memory_bytes) == (100_000_000, 128 << 20)


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
    assert "cache.memory: must be a size" in found[1]
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
        ("sites: [{name: a}]", ":1:9: sites[0]: needs the key hosts, origins"),
        ("sites: [{name: a, hosts: [], origins: [http://a]}]", ":1:26: sites[0].hosts: must hold at least 1 values"),
        (
            "sites: [{name: a, hosts: [a], origins: ['http://a'], limits: {memory: 1000001}}]",
            ":1:71: sites[0].limits.memory: must be",
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


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "http://",
        "http://:80",
        "http://a:0",
        "http://a:x",
        "http://a?b",
        "http://a#",
        "http://a/b",
        "http://a b",
        "http://ä",
        "//a",
    ],
)
def test_what_is_no_origin(url: str) -> None:
    assert siteform.origin_problem(url)


@pytest.mark.parametrize("url", ["http://a", "https://a.example:8443/", "http://127.0.0.1", "http://[::1]:80", "http://a_b"])
def test_what_is_an_origin(url: str) -> None:
    assert siteform.origin_problem(url) is None


@pytest.mark.parametrize(
    "host",
    ["", "*.", "a..b", "-a", "a:80", "[1]", "[127.0.0.1]", "a/b", "*a", "a.*", "bücher.example", "a" * 64, "a." * 130 + "a"],
)
def test_what_is_no_host(host: str) -> None:
    assert siteform.host_problem(host)


@pytest.mark.parametrize("host", ["*", "a", "*.example", "127.0.0.1", "[::1]", "xn--bcher-kva.example", "a_b.test"])
def test_what_is_a_host(host: str) -> None:
    assert siteform.host_problem(host) is None


@given(st.text(max_size=60))
def test_any_text_can_be_asked_whether_it_is_an_origin_or_a_host(text: str) -> None:
    for problem in (siteform.origin_problem(text), siteform.host_problem(text)):
        assert problem is None or problem


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = read_address(Node("x", 1, 1, "listen", text))
    except FormError:
        return
    assert read_address(Node("x", 1, 1, "listen", str(address))) == address


def test_origin_alone_is_a_whole_configuration() -> None:
    made = from_origin("http://127.0.0.1:8000/")
    (site,) = made.sites
    assert (site.hosts, site.origins) == (("*",), ("http://127.0.0.1:8000",))


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    made = Config().overridden(listen="127.0.0.1:0", control="[::1]:0", engine="unicorn", state=tmp_path)
    assert (made.listen.port, made.control.host, made.control.port) == (0, "::1", 0)
    assert made.sandbox.engine == "unicorn"
    assert made.state_dir == made.control.state_dir == tmp_path
    assert Config().overridden() == Config()


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


EXAMPLES = ["quickstart.yaml", "production.yaml", "hostile-origins.yaml", "upstreams.yaml", "disk.yaml", "fragments.yaml"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_can_be_loaded(name: str) -> None:
    assert load(CONFIGS / name).sites


def test_the_production_example_explains_every_key() -> None:
    lines = (CONFIGS / "production.yaml").read_text().splitlines()
    tables = [value for name, value in vars(configwords).items() if name.isupper() and isinstance(value, dict)]
    known = {key for table in tables for key in table} | set(config._SECTIONS)
    known |= {
        "access",
        "tls",
        "certificate",
        "name",
        "hosts",
        "origins",
        "weight",
        "limits",
        *words.LIMIT_WORDS,
        *words.CACHE_WORDS,
    }
    for key in sorted(known):
        assert any(
            re.match(rf"[ #-]*{key}: .*#|[ #-]*{key}:( *|.*  )#", line) or line.strip(" #-") == f"{key}:" for line in lines
        ), key


def test_the_upstreams_example_explains_every_key() -> None:
    text = (CONFIGS / "upstreams.yaml").read_text()
    keys = {"weight", "backup", "proxy_protocol", "balance", *SECTIONS}
    keys |= {key for section in SECTIONS.values() for key in section.words}
    for key in sorted(keys):
        assert re.search(rf"(^|[ {{#]){key}: ?", text, re.MULTILINE), key


@pytest.mark.parametrize(("said", "share"), [("true", 0.1), ("false", 0.0), ("0.25", 0.25)])
def test_prefetching_is_on_off_or_a_part(tmp_path: Path, said: str, share: float) -> None:
    site = f"sites: [{{name: a, hosts: [a.test], origins: [http://b], cache: {{prefetch: {said}}}}}]"
    assert load(written(tmp_path, site)).sites[0].rule.prefetch == share
    (found,) = problems(tmp_path, site.replace(said, "0.51"))
    assert "cache.prefetch: must be a number from 0 to 0.5" in found


class TestUpstreams:
    def test_a_site_says_how_its_origins_are_asked(self, tmp_path: Path) -> None:
        (site,) = load(
            written(
                tmp_path,
                "sites: [{name: a, hosts: [a.test], origins: [{url: 'http://b/', weight: 2}, http://c],"
                " upstream: {hedge: {after: 1s}}}]\n",
            )
        ).sites
        assert site.origins == ("http://b", "http://c")
        assert site.upstream.members(site.origins) == (Origin("http://b", 2), Origin("http://c"))
        assert site.upstream.hedge == HedgeRule(after=1.0)

    @pytest.mark.parametrize(
        ("origins", "upstream", "said"),
        [
            ("[{weight: 1}]", "{}", ":1:46: sites[0].origins[0]: needs the key url"),
            ("[http://a, {url: 'http://a', weight: 2}]", "{}", "sites[0].origins[1]: http://a is named twice"),
            ("[http://a]", "{tls: {ca: none.pem}}", "/none.pem does not exist"),
            ("[http://a]", "{tls: {certificate: edge.yaml, key: edge.yaml}}", "edge.yaml and its key cannot be used"),
            ("[http://a]", "{tls: {ca: edge.yaml}}", "holds no certificates in PEM form"),
            ("[{url: 'http://127.0.0.1:8080'}]", "{}", "is this edge itself"),
        ],
    )
    def test_what_is_wrong_is_named_before_the_edge_starts(self, tmp_path: Path, origins: str, upstream: str, said: str) -> None:
        (found,) = problems(tmp_path, f"sites: [{{name: a, hosts: [a.test], origins: {origins}, upstream: {upstream}}}]")
        assert said in found


class TestClusters:
    def test_a_site_names_one_that_is_declared(self, tmp_path: Path) -> None:
        (tmp_path / "edge.yaml").write_text(
            "clusters: [{name: gold, weight: 3, cap: 150}]\n"
            "sites: [{name: a, hosts: [a.test], origins: ['http://127.0.0.1:1'], cluster: gold, cap: 20}]\n"
        )
        config = load(tmp_path / "edge.yaml")
        assert config.clusters == (Cluster("gold", 3, 150, from_config=True),)
        assert (config.sites[0].cluster, config.sites[0].cap) == ("gold", 20)

    def test_what_is_wrong_is_named(self, tmp_path: Path) -> None:
        found = problems(
            tmp_path,
            "clusters: [{name: a, cap: 0}, {name: a}]\n"
            "sites: [{name: b, hosts: [b.test], origins: ['http://127.0.0.1:1'], cluster: none}]\n",
        )
        assert len(found) == 3
        assert any("'a' is declared twice" in line for line in found)
        assert any("'none'" in line and "does not declare" in line for line in found)


class TestErrorPage:
    def test_it_is_read_from_beside_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "error.html").write_text("<h1>{{status}} é</h1>")
        (tmp_path / "edge.yaml").write_text("serve: {error_page: error.html}\n")
        assert load(tmp_path / "edge.yaml").serve.error_page == "<h1>{{status}} é</h1>"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "cannot be read: No such file"),
            (b"", "is empty"),
            (b"\xff", "is not UTF-8 text"),
            (b"{{colour}}", "holds {{colour}}, which nothing fills; there are {{status}}, {{reason}}, {{text}}, {{request_id}}"),
            (b"a" * 65_537, "is longer than 64KiB"),
        ],
    )
    def test_what_is_wrong_with_it_is_told(self, tmp_path: Path, content: bytes | None, said: str) -> None:
        if content is not None:
            (tmp_path / "error.html").write_bytes(content)
        (line,) = problems(tmp_path, "serve: {error_page: error.html}\n")
        assert line.startswith(":1:21: serve.error_page: ")
        assert said in line
