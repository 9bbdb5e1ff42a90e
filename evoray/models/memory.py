"""A batch that does not fit into memory is cut in two, and what was done is kept; and how much was used."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from evoray.errors import StageError

Item = TypeVar("Item")

#: How a lack of memory shows in the text of an error: torch's class, torch's words on a CPU, Ray's class.
_SIGNS = ("OutOfMemoryError", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed for want of memory: here, or in a worker whose error another process passes on."""
    return any(sign in f"{type(error).__name__}: {error}" for sign in _SIGNS)


def does_not_fit(row: str, error: BaseException) -> StageError:
    """The error of a row that had the memory for itself: batches were cut before. row: it, in words."""
    return StageError(
        f"{row} that does not fit into memory: {error}",
        "memory for the longest row alone",
        "lower features.max_tokens or cluster.workers; what is committed stays",
    )


def peak_mb() -> float:
    """Resident memory of this process at its highest, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KB; on macOS in bytes
    return used / 2**20 if sys.platform == "darwin" else used / 2**10


def forget_peak() -> None:
    """Count `peak_mb` anew from here, where the system (Linux) can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def in_parts(items: Sequence[Item], run: Callable[[Sequence[Item]], None]) -> int:
    """Run a computation on all items; where they do not fit into memory, on each half, and so on. The cuts made.

    Raises what the computation raises: for want of memory only where one item alone does not fit.
    """
    try:
        run(items)
        return 0
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    # Not within the handler: what the failed pass held is freed with its exception.
    middle = len(items) // 2
    return 1 + in_parts(items[:middle], run) + in_parts(items[middle:], run)
