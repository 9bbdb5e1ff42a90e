"""evoray: pick the training samples that move a model toward a task; train on them; measure; go round again."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoray.comparison import Compared, compare
    from evoray.comparison_config import ComparisonConfig, load_comparison
    from evoray.config import RunConfig
    from evoray.config_file import load_config
    from evoray.engine.exports import Exported, export
    from evoray.engine.serving import ExportedModel, export_model
    from evoray.engine.unseen import Scored
    from evoray.errors import EvorayError, UserError
    from evoray.generating import Generated, generate
    from evoray.pipeline import RunResult, run
    from evoray.planning import plan
    from evoray.records import Comparison, Row, Score
    from evoray.report.costs import Forecast
    from evoray.reporting import read_report
    from evoray.selection.selector import Choice, Needs, Request, Selector
    from evoray.single import (
        Featurised,
        Selection,
        Trained,
        evaluate,
        evaluate_paired,
        featurize,
        score,
        select,
        train,
    )
    from evoray.watching import status

_HOMES = {
    "Choice": "evoray.selection.selector",
    "Compared": "evoray.comparison",
    "Comparison": "evoray.records",
    "ComparisonConfig": "evoray.comparison_config",
    "EvorayError": "evoray.errors",
    "Exported": "evoray.engine.exports",
    "ExportedModel": "evoray.engine.serving",
    "Featurised": "evoray.single",
    "Forecast": "evoray.report.costs",
    "Generated": "evoray.generating",
    "Needs": "evoray.selection.selector",
    "Request": "evoray.selection.selector",
    "Row": "evoray.records",
    "RunConfig": "evoray.config",
    "RunResult": "evoray.pipeline",
    "Score": "evoray.records",
    "Scored": "evoray.engine.unseen",
    "Selection": "evoray.single",
    "Selector": "evoray.selection.selector",
    "Trained": "evoray.single",
    "UserError": "evoray.errors",
    "compare": "evoray.comparison",
    "evaluate": "evoray.single",
    "evaluate_paired": "evoray.single",
    "export": "evoray.engine.exports",
    "export_model": "evoray.engine.serving",
    "featurize": "evoray.single",
    "generate": "evoray.generating",
    "load_comparison": "evoray.comparison_config",
    "load_config": "evoray.config_file",
    "plan": "evoray.planning",
    "read_report": "evoray.reporting",
    "run": "evoray.pipeline",
    "score": "evoray.single",
    "select": "evoray.single",
    "status": "evoray.watching",
    "train": "evoray.single",
}

__all__ = [
    "Choice",
    "Compared",
    "Comparison",
    "ComparisonConfig",
    "EvorayError",
    "Exported",
    "ExportedModel",
    "Featurised",
    "Forecast",
    "Generated",
    "Needs",
    "Request",
    "Row",
    "RunConfig",
    "RunResult",
    "Score",
    "Scored",
    "Selection",
    "Selector",
    "Trained",
    "UserError",
    "compare",
    "evaluate",
    "evaluate_paired",
    "export",
    "export_model",
    "featurize",
    "generate",
    "load_comparison",
    "load_config",
    "plan",
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
