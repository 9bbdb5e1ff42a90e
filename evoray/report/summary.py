"""What a report shows, as plain values: a run writes it as JSON, and reports are rendered from that alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from pydantic.types import Strict

from evoray.report.costs import Forecast
from evoray.report.document import Document
from evoray.report.evidence import Curve, Example, FeatureMap, Manifest, SetAside

_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="constants")
Count = Annotated[int, Strict()]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Arm:
    """One model of the comparison: the untrained one, random rows, or a round of the run."""

    name: str
    loss: Interval  # nats a supervised token
    accuracy: Interval | None = None  # None where the target has no choices
    against_random: Interval | None = None  # paired loss difference to the random arm; negative is better
    good_share: float | None = None  # share of chosen rows with a good label, where labels are known
    rows: Count | None = None  # training rows; None for an untrained model
    tokens: Count | None = None
    steps: Count | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Progress:
    """One round on the validate rows, by which the best one is chosen."""

    round: Count
    loss: float
    against_untrained: Interval  # paired loss difference; negative is better
    against_best: Interval
    best: Count  # the best round before; 0: the untrained model
    harmful: bool
    rolled_back: bool


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SourceShare:
    """How many rows of one source the pool holds and how many were chosen."""

    source: str
    pool: Count
    chosen: Count


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PathPoint:
    """One candidate setting of the selection, and what it gave on the validation rows."""

    round: Count
    lam: float  # lambda, the weight of the diversity energy
    r: float  # eps over the standard deviation of the cost
    transport_cost: float
    vendi: float | None = None  # effective number of different rows among its picks, in the diversity space
    validate_loss: float | None = None  # of the model that was trained on it, where it was tried
    chosen: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Certificate:
    """A number that bounds how far a computed result can be from the exact one."""

    name: str
    value: float
    bound: float
    holds: bool


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TraceStep:
    """Where the descent of a round's selection was before one of its steps; units of cost."""

    round: Count
    step: Count
    marginal_error: float  # L1
    transport: float
    diversity: float  # times its effective weight
    effective: float  # candidates in play
    gap: float  # Frank-Wolfe gap


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Recall:
    """What a cascade lost on a random sample."""

    rows: Count  # of the sample
    wanted: Count  # picks of the full pass
    kept: Count  # what the cheap pass kept
    found: Count  # of the wanted ones, those that were kept


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Cascade:
    """The cheap pass before the features."""

    representation: str
    kept: Count
    recall: Recall | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Choice:
    """What was chosen in the round that the run kept."""

    sources: tuple[SourceShare, ...] = ()
    vendi: float | None = None  # effective number of different rows among the chosen
    vendi_target: float | None = None  # the same of the target
    tokens_mean: float | None = None  # mean tokens of a chosen row
    tokens_mean_pool: float | None = None
    cascade: Cascade | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GeneratedRound:
    """What a generator wrote for one round."""

    round: Count
    requests: Count
    answered: Count
    prompt_tokens: Count  # read by the generator
    completion_tokens: Count  # written
    samples: Count  # in the form that was asked for
    kept: Count  # of these, new


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunSummary(Document):
    """All that a report shows of one run."""

    source: ClassVar[str] = "run"

    name: str
    split: str
    target_rows: Count
    arms: tuple[Arm, ...]
    best: str  # name of the arm that the run kept
    choice: Choice
    command: str
    ending: str | None = None  # why there were fewer rounds than asked for
    progress: tuple[Progress, ...] = ()
    generated: tuple[GeneratedRound, ...] = ()
    path: tuple[PathPoint, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    trace: tuple[TraceStep, ...] = ()
    quarantine: Mapping[str, Count]  # rows by reason
    timings: Mapping[str, float]  # seconds by stage
    versions: Mapping[str, str]
    # What earlier versions did not write.
    feature_map: FeatureMap | None = None
    examples: tuple[Example, ...] = ()
    set_aside: tuple[SetAside, ...] = ()  # some rows of each reason in `quarantine`
    curves: tuple[Curve, ...] = ()
    train_seconds: Mapping[str, float] = field(default_factory=dict)  # by the name of the arm
    config: str | None = None  # as resolved, YAML
    manifest: Manifest | None = None
    forecast: Forecast | None = None  # what `evoray plan` expected of it

    def arm(self, name: str) -> Arm | None:
        """The arm of this name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)
