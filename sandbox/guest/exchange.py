"""One request's traffic with its guest, counted against its limits: input, output, log, and how many calls of each sort.

Made at `Vm.begin`, thrown away at the end: nothing of it is part of a snapshot.
"""

from __future__ import annotations

from sandbox.limits import Limits
from sandbox.outcome import MAX_UNKNOWN, End, Usage
from sandbox.request import Delivered


class RequestEnded(Exception):
    """The request is over; the handler that raised this has decided how."""

    def __init__(self, end: End, detail: str = "") -> None:
        super().__init__(detail or end)
        self.end = end
        self.detail = detail


class Exchange:
    """Counters and buffers of one request, or of a boot (when `request` is None)."""

    def __init__(self, request: Delivered | None, limits: Limits) -> None:
        self.limits = limits
        self.request = request
        self.body = request.body if request else b""
        self.body_read = 0
        self.output = bytearray()
        self.output_bytes = 0
        self.log = bytearray()
        self.log_bytes = 0
        self.log_dropped_bytes = 0
        self.edge_calls = 0
        self.sub_requests = 0
        self.system_calls = 0
        self.refused_bytes = 0
        """What the guest last asked for in memory and did not get; 0 while it got everything."""
        self._unknown: dict[int, None] = {}

    def take_input(self, length: int) -> bytes:
        """The next bytes of the body, at most `length`."""
        taken = self.body[self.body_read : self.body_read + length]
        self.body_read += len(taken)
        return taken

    def check_output(self, length: int) -> None:
        """Raises RequestEnded(OUTPUT_LIMIT) unless `length` more bytes fit: asked before they are copied."""
        if self.output_bytes + length > self.limits.output_bytes:
            raise RequestEnded(End.OUTPUT_LIMIT, f"more than {self.limits.output_bytes} bytes of output")

    def put_output(self, data: bytes) -> None:
        """After `check_output` of as many bytes."""
        self.output += data
        self.output_bytes += len(data)

    def take(self) -> tuple[bytes, bytes]:
        """Output and log since the last time."""
        output, log = bytes(self.output), b""
        self.output.clear()
        if self.log:
            log = bytes(self.log)
            self.log.clear()
        return output, log

    def log_room(self, length: int) -> int:
        """How many of `length` bytes the log keeps; the others count as dropped."""
        kept = min(length, self.limits.log_bytes - self.log_bytes)
        self.log_dropped_bytes += length - kept
        return kept

    def put_log(self, data: bytes) -> None:
        self.log += data
        self.log_bytes += len(data)

    def count_call(self) -> None:
        self.system_calls += 1
        if self.system_calls > self.limits.system_calls:
            raise RequestEnded(End.SYSTEM_CALL_LIMIT, f"more than {self.limits.system_calls} system calls")

    def count_edge_call(self) -> None:
        self.edge_calls += 1
        if self.edge_calls > self.limits.edge_calls:
            raise RequestEnded(End.EDGE_CALL_LIMIT, f"more than {self.limits.edge_calls} edge calls")

    def count_sub_request(self) -> None:
        self.sub_requests += 1
        if self.sub_requests > self.limits.sub_requests:
            raise RequestEnded(End.EDGE_CALL_LIMIT, f"more than {self.limits.sub_requests} sub-requests")

    def note_unknown(self, number: int) -> None:
        if len(self._unknown) < MAX_UNKNOWN:
            self._unknown[number] = None

    def usage(self, cpu_ns: int, wall_ns: int, pages_written: int) -> Usage:
        return Usage(
            cpu_ns,
            wall_ns,
            self.output_bytes,
            self.log_bytes,
            self.log_dropped_bytes,
            self.edge_calls,
            self.sub_requests,
            self.system_calls,
            tuple(self._unknown),
            pages_written,
        )
