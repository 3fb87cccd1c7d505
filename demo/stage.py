"""An origin, an edge and the example generators, started and pushed as their owners would. The demo and the soak test use it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from demo.processes import Running, started
from demo.tour import Walk
from edgecache.cli.client import ControlClient
from edgecache.cli.options import TOKEN_FILE
from edgecache.cli.packing import archive, pack
from sandbox.sdk import EXAMPLES, compile_c

SITE = "shop"
GENERATORS = ("hello", "guestinfo", "spinner")
ROOT = Path(__file__).parent.parent
EDGE_READY = r"serving on (http://[^\s,]+), control on (http://[^\s,]+)"
ORIGIN_READY = r"ready on (http://[^\s/]+)"


class Ports(NamedTuple):
    """Of 127.0.0.1; 0 is any that is free."""

    origin: int = 0
    edge: int = 0
    control: int = 0


@dataclass(frozen=True)
class Stage:
    """Everything that runs."""

    origin: Running
    edge: Running
    site: ControlClient
    """With the token of the site alone."""

    @property
    def url(self) -> str:
        return self.edge.ready[1]

    def walk(self) -> Walk:
        return Walk(self.url, lambda tag: int(self.site.post("purge", body={"tag": tag})["purged"]))

    def push(self, bundle: Path, *, activate: bool = True) -> int:
        """Push the bundle in a directory that has the generator's name. The version. Raises ClickException."""
        packed = pack(bundle)
        path = ("sites", SITE, "generators", bundle.name, "versions")
        return int(self.site.push(archive(packed.bundle), *path, activate=activate)["version"])


def set_stage(
    stack: contextlib.ExitStack, folder: Path, ports: Ports, *, say: Callable[[str], None], edge_arguments: Sequence[str] = ()
) -> Stage:
    """Start all in `folder`; `stack` ends it. Raises DemoError, SdkError, ClickException."""
    bundles = [build(name, folder / "bundles" / name, say) for name in GENERATORS]
    origin_command = ["-m", "origin_sim", "--port", str(ports.origin)]
    origin = stack.enter_context(started("the origin", origin_command, ORIGIN_READY, folder / "origin.log"))
    state = folder / "state"
    listen = ("--listen", f"127.0.0.1:{ports.edge}", "--control", f"127.0.0.1:{ports.control}")
    edge_command = ["-m", "edgecache", "serve", *edge_arguments, *listen, "--state", str(state)]
    edge = stack.enter_context(started("the edge", edge_command, EDGE_READY, folder / "edge.log"))
    operator = ControlClient(edge.ready[2].rstrip("/"), (state / TOKEN_FILE).read_text().strip())
    operator.post("sites", body={"name": SITE, "hosts": ["127.0.0.1", "localhost"], "origins": [origin.ready[1]]})
    verbs = ["push", "activate", "purge", "logs", "read"]
    token = operator.post("tokens", body={"site": SITE, "verbs": verbs, "note": "the demo's"})["token"]
    stage = Stage(origin, edge, ControlClient(operator.url, token))
    for bundle in bundles:
        say(f"  pushed {bundle.name} version {stage.push(bundle)}: active")
    return stage


def build(name: str, directory: Path, say: Callable[[str], None]) -> Path:
    """The example `name` as a bundle in `directory`. Raises SdkError."""
    shutil.copytree(EXAMPLES / name, directory)
    compile_c([directory / f"{name}.c"], directory / name, on_progress=lambda line: say(f"  {shorter(line)}"))
    return directory


def shorter(line: str) -> str:
    """Paths as they are seen from the project's directory."""
    return line.replace(f"{ROOT}/", "")
