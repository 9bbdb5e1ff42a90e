"""The tables of a comparison as Markdown, each of them empty where there is nothing to show."""

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
from evoray.report.table import count, escape, interval, markdown_table

_UNKNOWN = "-"
_TOP_SOURCES = 3

Columns = list[tuple[str, list[str]]]


def overall_table(overall: Overall, reference: str) -> str:
    """One line a selector over all targets, the best first."""
    ones = overall.standings
    columns: Columns = [
        ("selector", [one.selector for one in ones]),
        ("targets", [str(one.targets) for one in ones]),
        ("mean gap to the best", [_number(one.mean_gap, "+.4f") for one in ones]),
        (f"mean loss - {reference}", [_number(one.mean_against, "+.4f") for one in ones]),
        (f"better than {reference}", [_of(one, one.wins) for one in ones]),
        (f"worse than {reference}", [_of(one, one.losses) for one in ones]),
        ("mean rank", [_number(one.mean_rank, ".2f") for one in ones]),
    ]
    return _table(columns)


def _of(standing: Standing, number: int) -> str:
    return f"{number} of {standing.compared}" if standing.compared else _UNKNOWN


def target_table(group: Group, reference: str) -> str:
    """One line a selector, the lowest loss first; the untrained model last."""
    ones = group.results
    last = [] if group.untrained is None else [group.untrained]
    models: list[SelectorResult | Untrained] = [*ones, *last]
    columns: Columns = [
        ("selector", [*(one.selector for one in ones), *("untrained model" for _ in last)]),
        ("seeds", [*(_seeds(one) for one in ones), *(_UNKNOWN for _ in last)]),
        ("loss [95%]", [interval(one.loss) for one in models]),
        (f"loss - {reference} [95%]", [interval(one.against, signed=True) for one in models]),
        ("", [*(_mark(one, reference) for one in ones), *("" for _ in last)]),
        ("gap to the best [95%]", [*(_gap(one, group) for one in ones), *(_UNKNOWN for _ in last)]),
        ("accuracy [95%]", [interval(one.accuracy, percent=True) for one in models]),
        (
            f"accuracy - {reference} [95%]",
            [*(interval(one.accuracy_against, percent=True, signed=True) for one in ones), *(_UNKNOWN for _ in last)],
        ),
    ]
    return _table(columns)


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
    named = "; ".join(f"{escape(one.selector)} {count(one.scored_rows)}" for one in fewer)
    return f"Test rows with a loss under every seed: {count(most)}, but for {named}." if named else ""


def picked_table(group: Group) -> str:
    """What each selector picked for one target; nothing where nobody measured it."""
    ones = group.results
    columns: Columns = [
        ("selector", [one.selector for one in ones]),
        ("rows", [_number(one.rows, ",.0f") for one in ones]),
        ("tokens", [_number(one.tokens, ",.0f") for one in ones]),
        ("length bias", [_number(one.length_bias, ".2f") for one in ones]),
        ("OT distance", [_number(one.distance, ".4f") for one in ones]),
        ("mean cosine", [_number(one.cosine, ".4f") for one in ones]),
        ("Vendi score", [_number(one.vendi, ".1f") for one in ones]),
        ("largest sources", [_sources(one.sources) for one in ones]),
    ]
    if len(_kept(columns)) < 2:
        return ""
    own = "" if group.vendi_target is None else f" (Vendi score of the target's own rows: {group.vendi_target:.1f})"
    return f"**{escape(group.target)}**{own}\n\n{_table(columns)}"


def _sources(shares: Mapping[str, float]) -> str:
    shown = [f"{name} {share:.0%}" for name, share in list(shares.items())[:_TOP_SOURCES]]
    return ", ".join(shown) or _UNKNOWN


def overlap_table(groups: Sequence[Group], overall: Overall) -> str:
    """Shared picks of every two selectors, the mean over targets."""
    found = [group.overlap for group in groups if group.overlap is not None]
    names = [one.selector for one in overall.standings if any(one.selector in each.selectors for each in found)]
    rows = [
        (a, *("" if a == b else _number(_mean([_share(one, a, b) for one in found]), ".0%") for b in names))
        for a in names
    ]
    return markdown_table(("", *names), rows) if rows else ""


def _share(overlap: Overlap, first: str, second: str) -> float | None:
    names = overlap.selectors
    if first not in names or second not in names:
        return None
    return overlap.shares[names.index(first)][names.index(second)]


def cost_table(groups: Sequence[Group], overall: Overall) -> str:
    """Means over targets, of those where it is known."""
    found = {
        one.selector: [result for group in groups if (result := group.result(one.selector)) is not None]
        for one in overall.standings
    }

    def column(value: Callable[[SelectorResult], float | None], style: str = ",.1f") -> list[str]:
        return [_number(_mean([value(result) for result in results]), style) for results in found.values()]

    columns: Columns = [
        ("selector", list(found)),
        ("seconds to select", column(lambda one: one.select_seconds)),
        ("seconds to train", column(lambda one: one.train_seconds)),
        ("training tokens", column(lambda one: one.training_tokens, ",.0f")),
    ]
    return _table(columns) if len(_kept(columns)) > 1 else ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def waiting_table(groups: Sequence[Group]) -> str:
    """Targets of which the untrained model alone is scored, or not even that."""
    rows = [
        (group.target, count(group.test_rows), interval(group.untrained.loss if group.untrained else None))
        for group in groups
    ]
    return markdown_table(("target", "test rows", "loss of the untrained model [95%]"), rows) if rows else ""


def decile_table(analyses: Sequence[DecileAnalysis]) -> str:
    """The rank correlation of each target, then every decile."""
    if not analyses:
        return ""
    lines = [
        (
            one.target,
            one.selector,
            one.budget or _UNKNOWN,
            str(decile.index),
            _number(decile.alignment, ".4f"),
            interval(decile.loss),
        )
        for one in analyses
        for decile in one.deciles
    ]
    header = ("target", "selector", "budget", "decile", "predicted alignment", "loss [95% over seeds]")
    ranks = [
        f"- {escape(one.target)}, {escape(one.selector)}: Spearman correlation of predicted alignment and measured "
        f"loss {_number(one.spearman, '+.2f')} over {one.points} points (deciles times seeds)"
        for one in analyses
    ]
    return "\n".join(ranks) + "\n\n" + markdown_table(header, lines)


def _number(value: float | None, style: str) -> str:
    return _UNKNOWN if value is None else f"{value:{style}}"


def _kept(columns: Columns) -> Columns:
    return [(title, cells) for title, cells in columns if any(cell not in ("", _UNKNOWN) for cell in cells)]


def _table(columns: Columns) -> str:
    """Columns without any value are left out."""
    kept = _kept(columns)
    rows = [tuple(cells[row] for _, cells in kept) for row in range(len(columns[0][1]))]
    return markdown_table(tuple(title for title, _ in kept), rows)
