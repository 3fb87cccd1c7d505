"""Telling whoever started the edge that it serves, and which process leads it: a file with its id, systemd's notifications."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_log: Final = logging.getLogger(__name__)


def ready(pidfile: Path | None) -> None:
    """This process leads the edge now. Raises OSError: the file cannot be written."""
    if pidfile is not None:
        written = pidfile.with_name(f"{pidfile.name}.{os.getpid()}")
        written.write_text(f"{os.getpid()}\n")
        written.replace(pidfile)
    notify(f"READY=1\nMAINPID={os.getpid()}\n")


def ended(pidfile: Path | None) -> None:
    """It ends; the file goes unless another process has put its own id there."""
    if pidfile is not None:
        with suppress(OSError):
            if pidfile.read_text() == f"{os.getpid()}\n":
                pidfile.unlink()


def notify(state: str) -> None:
    """sd_notify(3). Harmless where systemd did not start the edge."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        _log.warning("systemd could not be told: %s", error.strerror)
