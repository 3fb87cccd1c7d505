"""What the author of a guest program uses: the C header `edge.h`, the examples, and the C compiler (`build`).

Nothing here runs inside the edge. `edgecache generator`, the demo and the tests call it.
"""

from __future__ import annotations

from pathlib import Path

from sandbox.sdk.build import SdkError, compile_c, warm_up

INCLUDE = Path(__file__).parent
"""The directory of `edge.h`; `compile_c` has it on its include path always."""

EXAMPLES = Path(__file__).parent / "examples"
"""One bundle directory for each example, with its C source."""

__all__ = ["EXAMPLES", "INCLUDE", "SdkError", "compile_c", "warm_up"]
