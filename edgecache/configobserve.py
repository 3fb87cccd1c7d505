"""The `observe` section of a configuration file: what this edge tells others, beside metrics and log. Called by `config`."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from edgecache.configwords import TRACES, fill_part
from edgecache.observe.otlp import ADVICE, installed
from edgecache.observe.settings import ObserveSettings, TraceSettings
from edgecache.yamlform import FormError, Node, Problems

_WANTED: Final = "the URL of a collector, such as http://127.0.0.1:4318/v1/traces, without user name and password"


def read_observe(node: Node | None, problems: Problems) -> ObserveSettings:
    """The section; nothing of it is on unless it is named. Whatever is wrong goes to `problems`."""
    if node is None or node.null:
        return ObserveSettings()
    try:
        traces = node.mapping(("traces",)).get("traces")
        return ObserveSettings() if traces is None else ObserveSettings(traces=_traces(traces, problems))
    except FormError as error:
        problems.add(error)
        return ObserveSettings()


def _traces(node: Node, problems: Problems) -> TraceSettings:
    form = node.mapping(("endpoint", *TRACES), ("endpoint",))
    endpoint = form["endpoint"].text(limit=2000)
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good or not endpoint.isascii():
        raise form["endpoint"].error(f"must be {_WANTED}")
    if not installed():
        raise node.error(ADVICE)
    return fill_part(node, TraceSettings(endpoint=endpoint), TRACES, problems)
