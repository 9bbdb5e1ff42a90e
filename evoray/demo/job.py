"""The demo: the main job on the embedded model, with a pool and a target written on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evoray.config import RunConfig
from evoray.config_file import build_config
from evoray.demo.dataset import write_demo
from evoray.errors import ConfigError

_SEED = 0

#: Sizes: rows of the pool, of align, of validate and of test, picks a round.
_FULL = {"pool_rows": 600, "align_rows": 48, "validate_rows": 48, "test_rows": 200}
_SMALL = {"pool_rows": 160, "align_rows": 16, "validate_rows": 16, "test_rows": 32}


def demo_config(out: str | Path, *, small: bool = False) -> RunConfig:
    """Write the demo's data below `out` (the same bytes each time) and return its config.

    Raises ConfigError where `out` is no folder of this machine.
    """
    if "://" in str(out):
        raise ConfigError(f"--out {out}", "a folder of this machine, for the demo's data too", "name one")
    folder = Path(out).expanduser().absolute()
    files = write_demo(folder / "data", _SEED, **(_SMALL if small else _FULL))
    settings: dict[str, Any] = {
        "pool": str(files.pool),
        "target": str(files.align.parent),
        "labels": str(files.labels),
        "model": "smollm2",
        "out": str(folder),
        "rounds": 2,
        "seed": _SEED,
        "selection": {"k": 16 if small else 64},
    }
    if small:
        settings["features"] = {"warmup": {"rows": 16}}
    return build_config(settings)
