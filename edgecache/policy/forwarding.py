"""Header sections as this edge passes them on (RFC 9110 section 7.6, RFC 7239, RFC 8586). Unknown fields pass unchanged.

Called by serve: `to_source` before a request goes upstream, `to_client` before an answer goes down.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from edgecache.policy.connection import hop_by_hop
from edgecache.policy.dates import format_date
from edgecache.policy.fields import OWS, freeze, members, quote, without
from edgecache.policy.message import Headers, Request, Response

CONDITIONAL_FIELDS: Final = frozenset(
    {"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"}
)
"""What asks for less than the whole current representation."""

REWRITING_FIELDS: Final = frozenset(
    {
        "front-end-https",
        "x-forwarded-path",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-protocol",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-forwarded-uri",
        "x-host",
        "x-http-host-override",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-override-url",
        "x-rewrite-url",
        "x-url-scheme",
    }
)
"""By these, many origins let who stands before them say what is really asked for: another URL than the one that was routed, and
that is the cache key."""
METHOD_FIELDS: Final = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
"""By these, some origins take a request for one with another method: fit for what is never shared."""
SPEAKING_FIELDS: Final = (
    REWRITING_FIELDS
    | METHOD_FIELDS
    | {
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "cdn-loop",
        "origin",
        "surrogate-capability",
        "user-agent",
        "x-real-ip",
        "x-request-id",
    }
)
"""What selects the response, or says who asks and for what: to be said in a request's head, under its own name."""

_HANDLED_HERE: Final = frozenset(
    {"expect", "forwarded", "max-forwards", "proxy", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
)
"""`Proxy` means nothing in HTTP, and in CGI's variables it is where programs send their own requests to (CVE-2016-5385)."""
_MIMICKED: Final = (
    CONDITIONAL_FIELDS
    | SPEAKING_FIELDS
    | {
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "via",
        "x-requested-with",
    }
)
"""`A_B` and `A-B` meet in one variable of CGI, WSGI and the like (RFC 3875 section 4.1.18): what means something here, or may be
part of the key, must not be said past it."""
_OF_THE_ANSWER: Final = frozenset({"x-request-id"})
_MEMO_LIMIT_CHARS: Final = 256
"""Longer names are quoted each time, so that a hostile client cannot fill the memo with them."""
_NODE = re.compile(r"(?:^|;)[ \t]*((?:for|by)=(?:\"[^\"\\;,]*\"|[!#$%&'*+.^_`|~0-9A-Za-z-]+))[ \t]*(?=;|$)", re.IGNORECASE)
"""Of an element of Forwarded (RFC 7239 section 4)."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class NotForwardable(Exception):
    """A request that must not go further."""


class Loop(NotForwardable):
    """The request has been here before: 508 (RFC 5842 section 7.2, RFC 8586 section 2)."""

    def __init__(self, passes: int) -> None:
        super().__init__(f"the request has passed this edge {passes} times")
        self.passes = passes


class HopsExhausted(NotForwardable):
    """Max-Forwards is 0: this edge is to answer OPTIONS or TRACE itself (RFC 9110 section 7.6.2)."""


def to_source(
    request: Request,
    *,
    client_ip: str,
    edge_id: str,
    trusted: bool = False,
    whole: bool = False,
    conditional: Headers | None = None,
    max_passes: int = 0,
    replaced: frozenset[str] = frozenset(),
    own: Iterable[tuple[str, str]] = (),
) -> Headers:
    """The header section to send upstream.

    `edge_id` is a token, this edge's pseudonym in Via and CDN-Loop. `trusted`: the client is a proxy of ours, whose
    X-Forwarded-Proto and -Host stand; X-Forwarded-For and Forwarded are appended to in any case. `whole`: the client's
    preconditions and Range are judged here and not sent, so that the answer can be stored. `conditional`: the fields of
    `lookup.Validate`, sent in their place. `own`: further fields, of this edge itself; `replaced`: lower-case names of those
    of the client's that are not sent. Raises Loop when this edge is named in Via or CDN-Loop more than `max_passes` times,
    HopsExhausted when Max-Forwards is 0.
    """
    headers = request.headers
    passes = max(_passes_by_via(headers, edge_id), _passes_by_cdn_loop(headers, edge_id))
    if passes > max_passes:
        raise Loop(passes)
    dropped = hop_by_hop(headers) | _HANDLED_HERE | replaced
    if whole or conditional is not None:
        dropped |= CONDITIONAL_FIELDS
    sent = without(headers, dropped)
    if any("_" in name for name, _ in sent):
        mimicked = _MIMICKED | dropped
        sent = [(name, value) for name, value in sent if "_" not in name or name.lower().replace("_", "-") not in mimicked]
    sent.extend(_max_forwards(request))
    sent.append(("Via", f"{request.version} {edge_id}"))
    sent.append(("CDN-Loop", edge_id))
    sent.extend(_provenance(request, client_ip, trusted))
    if conditional is not None:
        sent.extend(conditional.items())
    sent.extend(own)
    return freeze(sent)


def to_client(response: Response, *, edge_id: str) -> Headers:
    """The header section to send down: end-to-end fields, with Via appended. A source's request ID is of another request."""
    sent = without(response.headers, hop_by_hop(response.headers) | _OF_THE_ANSWER)
    sent.append(("Via", f"1.1 {edge_id}"))
    return freeze(sent)


def dated(response: Response, now: float) -> Response:
    """With the Date that is missing, in seconds since the epoch: who has a clock adds it (RFC 9110 section 6.6.1)."""
    if "Date" in response.headers:
        return response
    fields = freeze([*response.headers.items(), ("Date", format_date(now))])
    return Response(response.status, response.reason, fields)


def _passes_by_via(headers: Headers, edge_id: str) -> int:
    """Lines of Via that name this edge: `received-protocol received-by [comment]` (RFC 9110 section 7.6.3)."""
    return sum(1 for member in members(headers, "Via") if member.split()[1:2] == [edge_id])


def _passes_by_cdn_loop(headers: Headers, edge_id: str) -> int:
    """RFC 8586 section 2: `cdn-id` and parameters."""
    return sum(1 for member in members(headers, "CDN-Loop") if member.partition(";")[0].strip(OWS).lower() == edge_id.lower())


def _max_forwards(request: Request) -> list[tuple[str, str]]:
    value = request.headers.get("Max-Forwards")
    if value is None or request.method not in ("OPTIONS", "TRACE") or not value.isascii() or not value.isdigit():
        return [] if value is None else [("Max-Forwards", value)]
    if not value.strip("0"):
        raise HopsExhausted
    # int() refuses very long digit strings; a count of that size never matters.
    return [("Max-Forwards", str(int(value[-9:] if len(value) <= 9 else "9" * 9) - 1))]


def _provenance(request: Request, client_ip: str, trusted: bool) -> list[tuple[str, str]]:
    """Who asked, over what, for which host (RFC 7239, and the de facto fields before it)."""
    headers = request.headers
    host, quoted = _named(request.authority)
    element = f"for={_node(client_ip)};host={quoted};proto={request.scheme}"
    asked_for = [line.strip(OWS) for line in headers.getall("X-Forwarded-For", ()) if line.strip(OWS)]
    earlier = [line.strip(OWS) for line in headers.getall("Forwarded", ()) if line.strip(OWS)]
    if earlier and not trusted:
        earlier = _nodes(headers)
    protocol = headers.get("X-Forwarded-Proto") if trusted else None
    forwarded_host = headers.get("X-Forwarded-Host") if trusted else None
    return [
        ("Forwarded", ", ".join((*earlier, element))),
        ("X-Forwarded-For", ", ".join((*asked_for, client_ip or "unknown"))),
        ("X-Forwarded-Proto", protocol or request.scheme),
        ("X-Forwarded-Host", forwarded_host or host),
    ]


def _nodes(headers: Headers) -> list[str]:
    """Who a client says that the request has come by. Not what it was asked for, which many origins take from the first element
    and put into their answer: it is no part of the key (RFC 7239 section 8.1)."""
    found = (";".join(match[1] for match in _NODE.finditer(element)) for element in members(headers, "Forwarded"))
    return [element for element in found if element]


def _named(authority: str) -> tuple[str, str]:
    """The host as it is told, plain and quoted."""
    return _remembered_name(authority) if len(authority) <= _MEMO_LIMIT_CHARS else _name(authority)


def _name(authority: str) -> tuple[str, str]:
    host = _CONTROL.sub("", authority)
    return host, quote(host)


_remembered_name = lru_cache(maxsize=1024)(_name)


@lru_cache(maxsize=1024)
def _node(client_ip: str) -> str:
    """A node of RFC 7239 section 6: IPv6 in brackets and quotes, and `unknown` for what is no address."""
    try:
        address = ipaddress.ip_address(client_ip.partition("%")[0])
    except ValueError:
        return "unknown"
    return f'"[{address}]"' if address.version == 6 else str(address)
