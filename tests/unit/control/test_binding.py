"""The control API listens on loopback, or with TLS, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.control.listening.binding import BindRefused, check_bind, is_loopback
from edgecache.control.settings import ControlSettings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback(host: str, tmp_path: Path) -> None:
    assert is_loopback(host)
    assert check_bind(ControlSettings(state_dir=tmp_path, host=host)) is None


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.1", "edge.example", "127.0.0.1.example", "::ffff:10.0.0.1", "127.1"]
)
def test_elsewhere_is_refused_without_tls(host: str, tmp_path: Path) -> None:
    with pytest.raises(BindRefused, match="without TLS"):
        check_bind(ControlSettings(state_dir=tmp_path, host=host))


def test_tls_needs_both_files_and_readable_ones(tmp_path: Path) -> None:
    half = ControlSettings(state_dir=tmp_path, host="0.0.0.0", tls_certificate=tmp_path / "c.pem")
    with pytest.raises(BindRefused, match="certificate and a key"):
        check_bind(half)
    with pytest.raises(BindRefused, match="No such file"):
        check_bind(replace(half, tls_key=tmp_path / "k.pem"))
    (tmp_path / "c.pem").write_text("no certificate")
    (tmp_path / "k.pem").write_text("no key")
    with pytest.raises(BindRefused, match="cannot load"):
        check_bind(replace(half, tls_key=tmp_path / "k.pem"))
