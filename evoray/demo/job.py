"""The demo: the main job on the embedded model, with a pool and a target written on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evoray.config import RunConfig
from evoray.config_file import build_config
from evoray.demo.dataset import write_demo

_SEED = 0

#: Sizes: rows of the pool, of align, of validate and of test, picks a round.
_FULL = {"pool_rows": 600, "align_rows": 48, "validate_rows": 48, "test_rows": 200}
_SMALL = {"pool_rows": 160, "align_rows": 16, "validate_rows": 16, "test_rows": 32}


def demo_config(out: Path, *, small: bool = False) -> RunConfig:
    """Write the demo's data below `out` (the same bytes each time) and return its config."""
    files = write_demo(out / "data", _SEED, **(_SMALL if small else _FULL))
    settings: dict[str, Any] = {
        "pool": str(files.pool.absolute()),
        "target": str(files.align.parent.absolute()),
        "labels": str(files.labels.absolute()),
        "model": "smollm2",
        "out": str(out.absolute()),
        "rounds": 2,
        "seed": _SEED,
        "selection": {"k": 16 if small else 64},
    }
    if small:
        settings["features"] = {"warmup": {"rows": 16}}
    return build_config(settings)
