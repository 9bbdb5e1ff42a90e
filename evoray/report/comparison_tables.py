"""The tables of a comparison, each of them None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evoray.report.comparison import (
    DecileAnalysis,
    Group,
    Overall,
    Overlap,
    SelectorResult,
    Standing,
    Untrained,
)
from evoray.report.table import UNKNOWN, Columns, Grid, count, interval, known_columns, number

_TOP_SOURCES = 3


def overall_grid(overall: Overall, reference: str) -> Grid:
    """One line a selector over all targets, the best first."""
    ones = overall.standings
    columns: Columns = [
        ("selector", [one.selector for one in ones]),
        ("targets", [str(one.targets) for one in ones]),
        ("mean gap to the best", [number(one.mean_gap, "+.4f") for one in ones]),
        (f"mean loss - {reference}", [number(one.mean_against, "+.4f") for one in ones]),
        (f"better than {reference}", [_of(one, one.wins) for one in ones]),
        (f"worse than {reference}", [_of(one, one.losses) for one in ones]),
        ("mean rank", [number(one.mean_rank, ".2f") for one in ones]),
    ]
    return Grid.of_columns(columns)


def _of(standing: Standing, number: int) -> str:
    return f"{number} of {standing.compared}" if standing.compared else UNKNOWN


def target_grid(group: Group, reference: str) -> Grid:
    """One line a selector, the lowest loss first; the untrained model last."""
    ones = group.results
    last = [] if group.untrained is None else [group.untrained]
    models: list[SelectorResult | Untrained] = [*ones, *last]
    columns: Columns = [
        ("selector", [*(one.selector for one in ones), *("untrained model" for _ in last)]),
        ("seeds", [*(_seeds(one) for one in ones), *(UNKNOWN for _ in last)]),
        ("loss [95%]", [interval(one.loss) for one in models]),
        (f"loss - {reference} [95%]", [interval(one.against, signed=True) for one in models]),
        ("", [*(_mark(one, reference) for one in ones), *("" for _ in last)]),
        ("gap to the best [95%]", [*(_gap(one, group) for one in ones), *(UNKNOWN for _ in last)]),
        ("accuracy [95%]", [interval(one.accuracy, percent=True) for one in models]),
        (
            f"accuracy - {reference} [95%]",
            [*(interval(one.accuracy_against, percent=True, signed=True) for one in ones), *(UNKNOWN for _ in last)],
        ),
    ]
    return Grid.of_columns(columns)


def _seeds(result: SelectorResult) -> str:
    shared = result.paired_seeds
    return str(len(result.seeds)) + (f" ({shared} paired)" if 0 < shared < len(result.seeds) else "")


def _mark(result: SelectorResult, reference: str) -> str:
    if result.selector == reference:
        return "reference"
    if result.wins is None:
        return ""
    return "better" if result.wins else "worse" if result.loses else "not told apart"


def _gap(result: SelectorResult, group: Group) -> str:
    return "best" if result.selector == group.best else interval(result.gap, signed=True)


def unequal_rows(group: Group) -> str:
    """A sentence where some selectors have a loss on fewer rows than others: their means are over those alone."""
    most = max(one.scored_rows for one in group.results)
    fewer = [one for one in group.results if one.scored_rows < most]
    named = "; ".join(f"{one.selector} {count(one.scored_rows)}" for one in fewer)
    return f"Test rows with a loss under every seed: {count(most)}, but for {named}." if named else ""


def picked_grid(group: Group) -> Grid | None:
    """What each selector picked for one target; None where nobody measured it."""
    ones = group.results
    columns: Columns = [
        ("selector", [one.selector for one in ones]),
        ("rows", [number(one.rows, ",.0f") for one in ones]),
        ("tokens", [number(one.tokens, ",.0f") for one in ones]),
        ("length bias", [number(one.length_bias, ".2f") for one in ones]),
        ("OT distance", [number(one.distance, ".4f") for one in ones]),
        ("mean cosine", [number(one.cosine, ".4f") for one in ones]),
        ("Vendi score", [number(one.vendi, ".1f") for one in ones]),
        ("largest sources", [_sources(one.sources) for one in ones]),
    ]
    return Grid.of_columns(columns) if len(known_columns(columns)) > 1 else None


def own_vendi(group: Group) -> str:
    """The yardstick of the Vendi scores of one target, in brackets; empty where it is not known."""
    return "" if group.vendi_target is None else f" (Vendi score of the target's own rows: {group.vendi_target:.1f})"


def _sources(shares: Mapping[str, float]) -> str:
    shown = [f"{name} {share:.0%}" for name, share in list(shares.items())[:_TOP_SOURCES]]
    return ", ".join(shown) or UNKNOWN


def overlap_grid(groups: Sequence[Group], overall: Overall) -> Grid | None:
    """Shared picks of every two selectors, the mean over targets."""
    found = [group.overlap for group in groups if group.overlap is not None]
    names = [one.selector for one in overall.standings if any(one.selector in each.selectors for each in found)]
    rows = tuple(
        (a, *("" if a == b else number(_mean([_share(one, a, b) for one in found]), ".0%") for b in names))
        for a in names
    )
    return Grid(header=("", *names), rows=rows) if rows else None


def _share(overlap: Overlap, first: str, second: str) -> float | None:
    names = overlap.selectors
    if first not in names or second not in names:
        return None
    return overlap.shares[names.index(first)][names.index(second)]


def cost_grid(groups: Sequence[Group], overall: Overall) -> Grid | None:
    """Means over targets, of those where it is known."""
    found = {
        one.selector: [result for group in groups if (result := group.result(one.selector)) is not None]
        for one in overall.standings
    }

    def column(value: Callable[[SelectorResult], float | None], style: str = ",.1f") -> list[str]:
        return [number(_mean([value(result) for result in results]), style) for results in found.values()]

    columns: Columns = [
        ("selector", list(found)),
        ("seconds to select", column(lambda one: one.select_seconds)),
        ("seconds to train", column(lambda one: one.train_seconds)),
        ("training tokens", column(lambda one: one.training_tokens, ",.0f")),
    ]
    return Grid.of_columns(columns) if len(known_columns(columns)) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def waiting_grid(groups: Sequence[Group]) -> Grid | None:
    """Targets of which the untrained model alone is scored, or not even that."""
    rows = tuple(
        (group.target, count(group.test_rows), interval(group.untrained.loss if group.untrained else None))
        for group in groups
    )
    return Grid(header=("target", "test rows", "loss of the untrained model [95%]"), rows=rows) if rows else None


def decile_grid(analyses: Sequence[DecileAnalysis]) -> Grid | None:
    """Every decile of every analysis."""
    rows = tuple(
        (
            one.target,
            one.selector,
            one.budget or UNKNOWN,
            str(decile.index),
            number(decile.alignment, ".4f"),
            interval(decile.loss),
        )
        for one in analyses
        for decile in one.deciles
    )
    header = ("target", "selector", "budget", "decile", "predicted alignment", "loss [95% over seeds]")
    return Grid(header=header, rows=rows) if rows else None


def decile_ranks(analyses: Sequence[DecileAnalysis]) -> list[str]:
    """The rank correlation of each analysis, a line each."""
    return [
        f"{one.target}, {one.selector}: Spearman correlation of predicted alignment and measured "
        f"loss {number(one.spearman, '+.2f')} over {one.points} points (deciles times seeds)"
        for one in analyses
    ]
