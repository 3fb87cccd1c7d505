"""A control API over TLS as an edge of its own process serves it: commands reach it, before and after an upgrade."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from demo.processes import started

READY = r"serving on (http://\S+), control on (https://\S+)"

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("processes", [1, 2])
def test_commands_reach_a_control_api_over_tls(tmp_path: Path, processes: int) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (tmp_path / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    configuration = tmp_path / "edge.yaml"
    configuration.write_text(
        f"listen: 127.0.0.1:0\nstate: state\nserve: {{processes: {processes}}}\n"
        "control: {listen: '127.0.0.1:0', tls: {certificate: chain.pem, key: key.pem}}\n"
    )
    pidfile = tmp_path / "pid"
    command = ["-m", "edgecache", "serve", str(configuration), "--pidfile", str(pidfile)]
    with started("the edge", command, READY, tmp_path / "log") as edge:
        url = edge.ready[2]

        def status(**environment: str) -> subprocess.CompletedProcess[str]:
            asked = [sys.executable, "-m", "edgecache", "status", "--url", url, "--state", str(tmp_path / "state")]
            return subprocess.run(
                asked, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
            )

        trusting = str(tmp_path / "ca.pem")
        done = status(SSL_CERT_FILE=trusting)
        assert (done.returncode, "state ok" in done.stdout) == (0, True), done.stderr
        refused = status()
        assert (refused.returncode, "SSL_CERT_FILE" in refused.stderr) == (1, True), refused.stderr
        before = pidfile.read_text()
        os.kill(int(before), signal.SIGUSR2)
        while pidfile.read_text() == before or len(re.findall(READY, edge.log.read_text())) < 2:
            time.sleep(0.05)
        done = status(SSL_CERT_FILE=trusting)
        assert (done.returncode, "state ok" in done.stdout) == (0, True), done.stderr
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        while pidfile.exists():
            time.sleep(0.05)
    assert "cannot accept" not in edge.log.read_text()
