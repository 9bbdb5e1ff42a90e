"""The configuration of a run: frozen and strict sections. `config_file` reads them.

Every field carries its unit and its default;
docs/methods.md gives their reasons. The same file runs on a laptop and on a
cluster: only `cluster.address` (or `--address`) differs.
"""

from evoray.config.features import (
    CascadeConfig,
    FeatureConfig,
    LoraConfig,
    Preconditioning,
    Representation,
    SketchKind,
    WarmupConfig,
)
from evoray.config.generation import GenerationConfig
from evoray.config.run import ClusterConfig, MachineConfig, PoolConfig, RunConfig, check_metric
from evoray.config.section import Computed, PassTokens, Precision, Section
from evoray.config.selection import SELECTORS, FeedbackConfig, SelectionConfig, check_selector
from evoray.config.training import SCORERS, EarlyStopConfig, EvaluationConfig, TrainingConfig

__all__ = [
    "SCORERS",
    "SELECTORS",
    "CascadeConfig",
    "ClusterConfig",
    "Computed",
    "EarlyStopConfig",
    "EvaluationConfig",
    "FeatureConfig",
    "FeedbackConfig",
    "GenerationConfig",
    "LoraConfig",
    "MachineConfig",
    "PassTokens",
    "PoolConfig",
    "Precision",
    "Preconditioning",
    "Representation",
    "RunConfig",
    "Section",
    "SelectionConfig",
    "SketchKind",
    "TrainingConfig",
    "WarmupConfig",
    "check_metric",
    "check_selector",
]
