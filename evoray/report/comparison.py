"""What the report of a comparison shows, as plain values: written as JSON, and tables and plots come from it alone.

A group is one target at one budget. Means are over the seeds of a selector; intervals are of 95%, over seeds and test
rows where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from pydantic.types import Strict

from evoray.report.document import Document
from evoray.report.summary import Interval

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Strict()]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Untrained:
    """The model before training, on the test rows of a target."""

    loss: Interval  # nats a supervised token, over test rows
    accuracy: Interval | None = None
    against: Interval | None = None  # paired loss difference to the reference


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelectorResult:
    """One selector at one target and budget."""

    selector: str
    seeds: tuple[Count, ...]
    at_budget: bool  # False: it knows no budget, as all rows; shown beside the others, not ranked among them
    loss: Interval  # nats a supervised token
    scored_rows: Count  # test rows with a loss under every seed
    against: Interval | None = None  # paired loss difference to the reference; negative is better
    paired_seeds: Count = 0  # seeds that it shares with the reference
    wins: bool | None = None  # the interval of `against` lies below zero
    accuracy: Interval | None = None
    accuracy_against: Interval | None = None  # positive is better
    gap: Interval | None = None  # paired loss difference to the best selector of the group
    rank: float | None = None  # by mean loss, 1 is the lowest; equal losses share the mean of their ranks
    distance: float | None = None  # OT distance of the picks to held-out target rows
    cosine: float | None = None  # mean cosine of picks and held-out target rows
    vendi: float | None = None  # effective number of different rows among the picks
    rows: float | None = None
    tokens: float | None = None
    length_bias: float | None = None  # mean tokens of a pick over mean tokens of a pool row
    sources: Mapping[str, float]  # share of the picks
    select_seconds: float | None = None
    train_seconds: float | None = None
    training_tokens: float | None = None

    @property
    def loses(self) -> bool | None:
        """Whether the interval of the difference to the reference lies above zero."""
        return None if self.against is None else self.against.low > 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Overlap:
    """Rows that two selections share, over the size of the smaller one; the mean over seeds that both have."""

    selectors: tuple[str, ...]
    shares: tuple[tuple[float | None, ...], ...]  # symmetric, in the order of `selectors`; None: no seed in common


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Group:
    """One target at one budget, its results from the lowest loss to the highest."""

    target: str
    budget: str | None  # as in the config; None where no cell of the target has one
    test_rows: Count
    results: tuple[SelectorResult, ...]
    untrained: Untrained | None = None
    best: str | None = None  # lowest mean loss among the selectors with the most seeds
    vendi_target: float | None = None
    overlap: Overlap | None = None

    def result(self, selector: str) -> SelectorResult | None:
        """The result of this selector, or None."""
        return next((one for one in self.results if one.selector == selector), None)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Standing:
    """One selector over all targets at one budget."""

    selector: str
    at_budget: bool
    targets: Count  # targets with a result
    mean_gap: float | None = None  # of the losses to the best of each target
    mean_against: float | None = None  # mean over targets of the loss differences to the reference
    compared: Count = 0  # targets with a difference to the reference
    wins: Count = 0  # of these, those whose interval lies below zero
    losses: Count = 0  # and those whose interval lies above
    mean_rank: float | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Overall:
    """All selectors at one budget, the best first: most targets, then the smallest mean gap."""

    budget: str | None
    standings: tuple[Standing, ...]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Decile:
    """Models trained on the first rows of one tenth of the ranked pool."""

    index: Count  # 1 holds the best aligned rows
    loss: Interval  # over seeds alone
    alignment: float | None = None  # predicted, mean over the rows trained on and over seeds


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DecileAnalysis:
    """Does predicted alignment order the pool as the measured loss does?"""

    target: str
    selector: str
    budget: str | None
    deciles: tuple[Decile, ...]
    points: Count  # deciles times seeds, those with an alignment
    spearman: float | None = None  # of alignment and loss over these points; -1: alignment orders them perfectly


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ComparisonSummary(Document):
    """All that a report shows of one comparison."""

    source: ClassVar[str] = "comparison"

    reference: str
    reference_found: bool  # whether any cell is of the reference
    split: str
    cells: Count
    expected: Count | None = None  # cells of the finished comparison
    unscored: tuple[str, ...] = ()  # cells without a loss of any row: left out
    pool_sources: Mapping[str, Count]
    pool_tokens_mean: float | None = None
    groups: tuple[Group, ...]
    overall: tuple[Overall, ...]
    deciles: tuple[DecileAnalysis, ...] = ()
    # What earlier versions did not write.
    config: str | None = None  # as resolved, JSON
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> int | None:
        """Cells that the finished comparison will have beside these; None where nobody said how many there will be."""
        return None if self.expected is None else max(0, self.expected - self.cells)

    @property
    def budgets(self) -> tuple[str | None, ...]:
        """Budgets in the order of the groups."""
        return tuple(dict.fromkeys(one.budget for one in self.overall))

    def at(self, budget: str | None) -> tuple[Group, ...]:
        """The groups of one budget: one a target."""
        return tuple(group for group in self.groups if group.budget == budget)

    def order(self, budget: str | None) -> tuple[str, ...]:
        """The selectors of one budget, the best first."""
        return tuple(one.selector for part in self.overall if part.budget == budget for one in part.standings)
