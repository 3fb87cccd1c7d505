"""Lines on their way to a file: gathered on the event loop, written by one thread of its own, dropped and counted past a bound.

The loop joins what it has just made into blocks, so that the thread hardly needs Python's lock: what it holds, hits wait for.
`access_log` puts lines in; nothing here knows what they say.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

STANDARD_OUTPUT: Final = Path("-")
_GATHER_SECONDS: Final = 0.005
"""Between two rounds of the thread: lines that are not yet a block wait so long for company."""
_BLOCK_LINES: Final = 128
"""Some 40 KiB. Smaller ones make the thread ask for Python's lock more often, larger ones keep a core for longer."""
_BREATH_SECONDS: Final = 0.001
_SHORT_BREATH_SECONDS: Final = 0.0002
"""Between two blocks, so that hits wait for one at most; the short one where many wait, so that the thread keeps up."""
_MANY_BLOCKS: Final = 4
_WARN_SECONDS: Final = 60.0
_FULL_PIPE_SECONDS: Final = 0.5


class LogWriter:
    """Opens its file at once (raises OSError), and writes until `close`. `put` never blocks and never raises.

    `put` belongs to one thread, the event loop's.
    """

    def __init__(self, path: Path, limit_lines: int, *, shared: bool = False) -> None:
        """`shared`: other processes write to the same file, and lines must stay whole."""
        self._shared = shared
        self._path = path
        self._limit = limit_lines
        self._lines: list[bytes] = []
        """Not yet a block. The loop appends without the lock; who takes lines out holds it."""
        self._blocks: deque[tuple[bytes, int]] = deque()
        """Lines joined, and how many they are."""
        self._taking = threading.Lock()
        self._put = self._done = 0
        """Lines that came, and that are written or lost: each counted by one thread alone."""
        self._ended = False
        self._wake, self._stop, self._reopen = threading.Event(), threading.Event(), threading.Event()
        self._woken = False
        """The thread will look at what was put: its event need not be set again."""
        self._torn = False
        self._warned = 0.0
        self._refused = self._lost = 0
        self._fd = self._open()
        self._writing = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._writing.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: the queue was full, or writing failed."""
        return self._refused + self._lost

    def takes(self) -> bool:
        """Whether there is room for a line; counts one as dropped where there is not."""
        if self._put - self._done < self._limit and not self._ended:
            return True
        self._refused += 1
        return False

    def put(self, line: bytes) -> None:
        """A line, with its end, for which `takes` was true."""
        self._lines.append(line)
        self._put += 1
        if len(self._lines) >= _BLOCK_LINES:
            self._join()
        if not self._woken:
            self._woken = True
            self._wake.set()

    def reopen(self) -> None:
        """Close the file and open the one that now has its name: for log rotation. Lines put before go to the old one."""
        self._reopen.set()
        self._wake.set()

    def change(self, path: Path, limit_lines: int) -> None:
        """Go on in this file, with this bound. Raises OSError, and nothing is changed."""
        before, self._path = self._path, path
        try:
            descriptor = self._open()
        except OSError:
            self._path = before
            raise
        if descriptor > 2:
            os.close(descriptor)
        self._limit = limit_lines
        self.reopen()

    def close(self, wait_seconds: float) -> bool:
        """Write what waits and stop; blocks up to `wait_seconds`. False: the disk did not take it in time. Idempotent."""
        self._ended = True
        self._stop.set()
        self._wake.set()
        self._writing.join(wait_seconds)
        return not self._writing.is_alive()

    def _join(self) -> None:
        with self._taking:
            count = len(self._lines)
            if count:
                self._blocks.append((b"".join(self._lines[:count]), count))
                del self._lines[:count]

    # The thread's.

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            # While lines keep coming nobody has to wake anybody: that is what Python's lock changes hands for.
            while self._look():
                time.sleep(_GATHER_SECONDS)
            self._woken = False
            if self._lines or self._blocks:
                self._wake.set()
        self._switch_file()
        self._flush()
        if self._fd > 2:
            os.close(self._fd)

    def _look(self) -> bool:
        """Do what there is to do; whether lines were written."""
        self._switch_file()
        done = self._done
        self._flush()
        return self._done != done

    def _switch_file(self) -> None:
        if not self._reopen.is_set():
            return
        self._reopen.clear()
        self._flush()
        try:
            new = self._open()
        except OSError as error:
            self._warn(error)
            return
        if self._fd > 2:
            os.close(self._fd)
        self._fd, self._torn = new, False

    def _flush(self) -> None:
        self._join()
        while self._blocks:
            block, count = self._blocks.popleft()
            for piece in self._pieces(block):
                try:
                    self._write_all(piece)
                except OSError as error:
                    self._lost += count if piece is block else piece.count(b"\n")
                    self._warn(error)
            self._done += count
            if self._blocks:
                time.sleep(_BREATH_SECONDS if len(self._blocks) < _MANY_BLOCKS else _SHORT_BREATH_SECONDS)

    def _pieces(self, block: bytes) -> Iterable[bytes]:
        """What of `block` is written at once, so that no other process' lines come between.

        Appending to a regular file is whole at any size (open(2), O_APPEND), writing to a pipe up to PIPE_BUF (pipe(7)).
        """
        if not self._shared or len(block) <= select.PIPE_BUF or stat.S_ISREG(os.fstat(self._fd).st_mode):
            yield block
            return
        start = 0
        while start < len(block):
            # At least one line, however long; one byte is left for the line end that follows a torn one.
            end = block.rfind(b"\n", start, start + select.PIPE_BUF - 1) + 1 or block.find(b"\n", start) + 1
            yield block[start:end]
            start = end

    def _write_all(self, data: bytes) -> None:
        """Raises OSError; a block that was written in part is lost as a whole, and the next begins on a line of its own."""
        whole = b"\n" + data if self._torn else data
        rest = memoryview(whole)
        try:
            while rest:
                # In one expression, mypyc 2.4 would write twice.
                taken = self._write_some(rest)
                rest = rest[taken:]
        except OSError:
            self._torn = self._torn or len(rest) < len(whole)
            raise
        self._torn = False

    def _write_some(self, data: memoryview) -> int:
        """How much was taken; 0 when a pipe that does not block was full for a while. Raises OSError."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            ready = select.select([], [self._fd], [], _FULL_PIPE_SECONDS)[1]
            if not ready and self._stop.is_set():
                raise
            return 0

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return 1
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _warn(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._warned > _WARN_SECONDS or self._warned == 0.0:
            self._warned = now
            _log.warning("the access log %s cannot be written (%s): %d lines lost so far", self._path, error.strerror, self._lost)
