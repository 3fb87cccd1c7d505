"""What a configuration file, or the command line, makes of an edge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgecache.config import Address, Config, from_origin, load
from edgecache.policy.upstream import HedgeRule, Origin
from edgecache.sites import Cluster
from sandbox.dispatch.policies import Isolation
from sandbox.jail import Layer
from tests.unit.config_files import problems, written


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
    assert (sandbox.engine, sandbox.dispatch.slots, sandbox.dispatch.pool.max_workers) == ("unicorn", 2, 4)
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
