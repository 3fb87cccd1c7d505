"""What pyproject.toml cannot say: the modules on a request's path are compiled by mypyc, where there is a C compiler.

They are ordinary Python and run uncompiled as well, only slower: where a compiler or Python's headers are missing, or with
EDGECACHE_COMPILE=0.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

from setuptools import Extension, setup

COMPILED: Final = {
    "edgecache/generate": "begun cgi",
    "edgecache/policy": """
        authority cache_control cache_status coding connection dates etag fields forwarding freshness lookup message partial
        prefetch ranges storing trailing upgrading validation variance
    """,
    "edgecache/store": "entry eviction frequency groups memory",
    "edgecache/observe": "access_log counting log_writer recorder sampling",
    "edgecache/serve": """
        call fast_lane guard interim looking request_id respond shape wire
        http1/turnstile
        misses/errand misses/forwarded misses/keeping misses/parts
        purging/purges
    """,
    "edgecache/upstream": """
        deadlines endpoint
        choosing/balancing choosing/breaker choosing/ejection choosing/member choosing/pool choosing/retrying
        flights/predictor flights/reserving
        http1/beginning http1/begun http1/intake http1/kept http1/request_head http1/response http1/trailers http1/whole
    """,
    "sandbox": """
        call memory scheduler serving vm
        channel/frames channel/polling
        dispatch/cpuclock dispatch/deadlines dispatch/dispatcher dispatch/handle dispatch/lane dispatch/ledger dispatch/pacer
        dispatch/pacing dispatch/quarantine dispatch/reports dispatch/requests dispatch/tab dispatch/timed_shaper
        pages/faults pages/undoing
        queueing/bucket queueing/caps queueing/express queueing/fairqueue queueing/promise queueing/sharenode
    """,
    "sandbox/engines": "base kvm sliced watchdog",
    "sandbox/guest": "access actions calls exchange process",
}
"""By package; modules of one package call each other directly. `tests/unit/test_compiled.py` holds what is left out:

- coroutines: a cancelled one of mypyc 2.4 has crashed the process (`async def` in a Protocol would be harmless);
- values that travel between processes: msgspec reads their annotations, which mypyc does not keep;
- classes whose interpreted base has `__slots__`, as aiohttp's protocols do: mypyc refuses them at import;
- attributes whose names are C's keywords behind an underscore (`_thread`): the compiler refuses them;
- calls that do something in the bounds of a slice: mypyc 2.4 makes them twice."""


def compiled() -> list[Extension]:
    """The extension modules; none where they cannot be made, or are not wanted."""
    wanted = os.environ.get("EDGECACHE_COMPILE", "auto")
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0])
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if wanted == "0" or (wanted == "auto" and not (compiler and headers)):
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 (not needed where nothing is compiled)

    groups = [
        ([f"{folder}/{name}.py" for name in names.split()], f"{folder.replace('/', '.')}.native")
        for folder, names in COMPILED.items()
    ]
    paths = [path for group, _ in groups for path in group]
    return mypycify(paths, opt_level="2", debug_level="0", separate=groups)


setup(ext_modules=compiled(), options={"build_ext": {"parallel": os.cpu_count()}})
