"""evoray: pick the training samples that move a model toward a task; train on them; measure; go round again."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoray.config import RunConfig, load_config
    from evoray.engine.exports import Exported, export
    from evoray.engine.unseen import Scored
    from evoray.errors import EvorayError, UserError
    from evoray.pipeline import (
        Featurised,
        RunResult,
        Selection,
        Trained,
        evaluate,
        featurize,
        read_report,
        run,
        score,
        select,
        status,
        train,
    )
    from evoray.records import Score

_HOMES = {
    "EvorayError": "evoray.errors",
    "Exported": "evoray.engine.exports",
    "Featurised": "evoray.pipeline",
    "RunConfig": "evoray.config",
    "RunResult": "evoray.pipeline",
    "Score": "evoray.records",
    "Scored": "evoray.engine.unseen",
    "Selection": "evoray.pipeline",
    "Trained": "evoray.pipeline",
    "UserError": "evoray.errors",
    "evaluate": "evoray.pipeline",
    "export": "evoray.engine.exports",
    "featurize": "evoray.pipeline",
    "load_config": "evoray.config",
    "read_report": "evoray.pipeline",
    "run": "evoray.pipeline",
    "score": "evoray.pipeline",
    "select": "evoray.pipeline",
    "status": "evoray.pipeline",
    "train": "evoray.pipeline",
}

__all__ = [
    "EvorayError",
    "Exported",
    "Featurised",
    "RunConfig",
    "RunResult",
    "Score",
    "Scored",
    "Selection",
    "Trained",
    "UserError",
    "evaluate",
    "export",
    "featurize",
    "load_config",
    "read_report",
    "run",
    "score",
    "select",
    "status",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load public names on first use: importing evoray starts no Ray and takes no seconds for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'evoray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
