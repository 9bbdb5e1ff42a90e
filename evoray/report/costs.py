"""What a run is expected to cost, as plain values."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from pydantic.types import Strict

from evoray.report.document import Document

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Strict()]

#: How names of stages begin, and what they are put together as, in the order of a run.
_KINDS = {
    "prepare": "prepare models",
    "read": "read",
    "warm": "warm up",
    "estimate": "warm up",
    "featurise": "featurise",
    "centre": "featurise",
    "align": "select",
    "train": "train",
    "evaluate": "evaluate",
    "answer": "feedback",
}
KINDS = (*dict.fromkeys(_KINDS.values()), "other")


def kind_of(stage: str) -> str:
    """What a stage is put together with: those of all rounds, and of all models, are one."""
    return _KINDS.get(stage.partition(" ")[0], "other")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StageCost:
    """What all stages of a kind are expected to take."""

    kind: str
    seconds: float  # of waiting for them
    rows: Count | None = None  # that they go through; None: rows say nothing of them
    bytes: Count | None = None  # that they leave in storage
    peak_mb: float | None = None  # resident memory of one process


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MachinePrice:
    """What the run costs on machines of one kind."""

    name: str
    machines: Count
    hours: float  # of all these machines together
    least: float
    most: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Forecast(Document):
    """The cost of a run before it begins. `workers`, and the machine it was rehearsed on, are part of what it says."""

    source: ClassVar[str] = "plan"

    config: str  # fingerprint of the config that it is for
    workers: Count
    pool_rows: Count
    rehearsed_rows: Count
    rehearsal_seconds: float
    stages: tuple[StageCost, ...]
    prices: tuple[MachinePrice, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds for stage in self.stages)
