"""An error as people in front of a browser see it, and who is one of them. Pure; `problem` makes the same error for programs.

The page needs nothing but itself: no script, no image, no other file. What it quotes may come from a client, and is escaped.
"""

from __future__ import annotations

import html
import re
from typing import Final

MEDIA_TYPE: Final = "text/html; charset=utf-8"
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors *"
"""Content-Security-Policy of the page: its own style and nothing else."""

_MAX_RANGES: Final = 50
_QUALITY: Final = re.compile(r"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_STYLE: Final = (
    ":root{color-scheme:light dark;--ink:#1c2530;--soft:#5b6875;--paper:#f6f8fa}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa6b2;--paper:#14191f}}"
    "*{box-sizing:border-box}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--paper);color:var(--ink);"
    "font:1.05rem/1.6 system-ui,sans-serif}"
    "main{width:100%;max-width:34rem;overflow-wrap:anywhere}"
    "b{display:block;font-size:3.5rem;line-height:1;font-weight:700;color:var(--soft)}"
    "h1{font-size:1.6rem;line-height:1.25;margin:.6rem 0 1rem}p{margin:.6rem 0}"
    "footer{margin-top:2rem;font-size:.85rem;color:var(--soft)}code{font-family:ui-monospace,monospace}"
)
_AGAIN: Final = frozenset({502, 503, 504})
"""What may be otherwise a moment later."""


def prefers_page(accept: str) -> bool:
    """Whether who sends this Accept (RFC 9110 section 12.5.1) would rather have a page than JSON; who does not care would not."""
    best: dict[str, float] = {}
    for member in accept.split(",", _MAX_RANGES)[:_MAX_RANGES]:
        media, _, parameters = member.partition(";")
        quality = _QUALITY.search(parameters)
        best[media.strip().lower()] = float(quality[1]) if quality else 1.0
    others = best.get("*/*", 0.0)
    page = best.get("text/html", best.get("text/*", others))
    data = best.get("application/*", others)
    return page > max(best.get("application/problem+json", data), best.get("application/json", data))


def error_page(status: int, reason: str, text: str, *, request_id: str = "", retry_after: int | None = None) -> bytes:
    """The document. `retry_after` in seconds, as the field of that name says."""
    again = f"Please try again in {_seconds(retry_after)}." if retry_after else "Please try again in a moment."
    lines = [text, again if retry_after or status in _AGAIN else ""]
    footer = f"<footer>Request <code>{html.escape(request_id)}</code></footer>" if request_id else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{status} {html.escape(reason)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><b>{status}</b><h1>{html.escape(reason)}</h1>"
        + "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
        + f"{footer}</main></body></html>\n"
    ).encode("utf-8", "xmlcharrefreplace")


PLACES: Final = ("status", "reason", "text", "request_id")
"""What {{…}} of an operator's page can name."""
_PLACE: Final = re.compile(r"\{\{\s*([^{}\s][^{}]{0,99}?)\s*\}\}")


def unknown_places(template: str) -> list[str]:
    """What it wants filled and nothing can."""
    return [name for name in _PLACE.findall(template) if name not in PLACES]


def filled_page(template: str, status: int, reason: str, text: str, *, request_id: str = "") -> bytes:
    """An operator's page: each {{place}} becomes its text, escaped."""
    values = {"status": str(status), "reason": reason, "text": text, "request_id": request_id}
    page = _PLACE.sub(lambda found: html.escape(values.get(found[1], "")), template)
    return page.encode("utf-8", "xmlcharrefreplace")


def _seconds(count: int) -> str:
    return "a second" if count == 1 else f"{count} seconds"
