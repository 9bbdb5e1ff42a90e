"""Which figures a comparison has, by file name: the page links to them, and the plots draw them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from evoray.report.comparison import ComparisonSummary, Group, SelectorResult

_UNSAFE = re.compile(r"[^0-9A-Za-z.]+")


@dataclass(frozen=True, kw_only=True)
class PlannedFigure:
    """One figure, not drawn yet."""

    kind: str
    name: str  # of its file
    title: str
    budget: str | None = None


def _all(group: Group) -> bool:
    return bool(group.results)


def _some(known: Callable[[SelectorResult], object]) -> Callable[[Group], bool]:
    """Whether a result of the group has this value."""
    return lambda group: any(known(result) for result in group.results)


#: Figures of one budget: kind, title, and when a target has something to show in it.
KINDS: tuple[tuple[str, str, Callable[[Group], bool]], ...] = (
    ("losses", "Test loss", _all),
    ("differences", "Paired loss difference to the reference", _some(lambda one: one.against is not None)),
    (
        "distance",
        "Distance of the picks to held-out target rows, and test loss",
        _some(lambda one: one.distance is not None),
    ),
    ("overlap", "Picks that two selectors share, in percent", lambda group: group.overlap is not None),
    ("sources", "Where the picks come from", _some(lambda one: one.sources)),
    ("length", "Mean tokens of a pick over those of a pool row", _some(lambda one: one.length_bias is not None)),
    ("cost", "Seconds to select and to train, and test loss", _some(lambda one: seconds(one) is not None)),
    ("training", "Tokens trained on, and test loss", _some(lambda one: one.training_tokens is not None)),
)


def planned(summary: ComparisonSummary) -> tuple[PlannedFigure, ...]:
    """The figures that have something to show, in the order of the page."""
    figures = [
        PlannedFigure(kind=kind, name=f"{kind}{mark}.svg", title=title, budget=budget)
        for budget, mark in _marks(summary.budgets).items()
        for kind, title, shown in KINDS
        if any(shown(group) for group in summary.at(budget))
    ]
    if summary.deciles:
        title = "Test loss and predicted alignment of the deciles of the pool"
        figures.append(PlannedFigure(kind="deciles", name="deciles.svg", title=title))
    return tuple(figures)


def shown_groups(summary: ComparisonSummary, figure: PlannedFigure) -> tuple[Group, ...]:
    """The groups that have something to show in a figure of one budget."""
    shown = next(shown for kind, _, shown in KINDS if kind == figure.kind)
    return tuple(group for group in summary.at(figure.budget) if shown(group))


def seconds(result: SelectorResult) -> float | None:
    """Selection and training together; None where neither is known."""
    known = [value for value in (result.select_seconds, result.train_seconds) if value is not None]
    return sum(known) if known else None


def _marks(budgets: tuple[str | None, ...]) -> dict[str | None, str]:
    """What tells the files of the budgets apart, in letters that are safe in a file name and in a link."""
    if len(budgets) < 2:
        return dict.fromkeys(budgets, "")
    slugs = ["all" if budget is None else _UNSAFE.sub("-", budget) for budget in budgets]
    if len({slug.lower() for slug in slugs}) < len(slugs):
        slugs = [str(number) for number in range(1, len(budgets) + 1)]
    return {budget: f"_{slug}" for budget, slug in zip(budgets, slugs, strict=True)}
