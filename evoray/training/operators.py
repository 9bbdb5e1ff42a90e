"""DeepSpeed's compiled operators, loaded so that no killed process is waited for.

torch guards the compilation of an operator, and every loading of it, by a file that is there or not. A process that is
killed meanwhile leaves the file, and whoever loads the operator later waits for it for ever. A lock of the kernel's,
which ends with its process, stands around that here: to whoever holds it a guard that is there is nobody's.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

_LOCK, _GUARD = "evoray.lock", "lock"


def load_operators() -> None:
    """Load what DeepSpeed will ask for into this process, where it keeps it; compile it before, if need be."""
    from deepspeed.comm.torch import build_shm_op
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / _LOCK):
        for guard in root.rglob(_GUARD):
            guard.unlink(missing_ok=True)
        build_shm_op()
