"""A request of a site's, as it is told to who observes."""

from __future__ import annotations

from edgecache.observe.record import Record

RECORD = Record(
    time=1.0,
    request_id="1",
    client="::1",
    method="GET",
    uri="http://a/",
    status=200,
    bytes_sent=10,
    duration=0.002,
    cache="hit",
    site="shop",
)
