"""A comparison as one Markdown page: what won and how surely, then the tables, the plots and how to read them."""

from __future__ import annotations

from collections.abc import Sequence

from evoray.report.comparison import ComparisonSummary, Group, Overall, Standing
from evoray.report.comparison_figures import planned
from evoray.report.comparison_tables import (
    cost_grid,
    decile_grid,
    decile_ranks,
    overall_grid,
    overlap_grid,
    own_vendi,
    picked_grid,
    target_grid,
    unequal_rows,
    waiting_grid,
)
from evoray.report.table import count, escape, markdown_of


def render_comparison(summary: ComparisonSummary, plots: str = "") -> str:
    """The page, ending in a line break. Sections without content are left out. plots: folder of the figures."""
    sections = ["# Comparison of selectors", f"**{escape(headline(summary))}**", escape(state(summary))]
    for budget in summary.budgets:
        sections += _budget_sections(summary, budget, plots)
    waiting = [group for group in summary.groups if not group.results]
    sections += [
        _section("Targets without a finished selector", markdown_of(waiting_grid(waiting))),
        _section("Deciles of the pool", _deciles(summary), _figures(summary, None, ("deciles",), plots)),
        _section("How to read this", "\n".join(f"- {escape(note)}" for note in notes(summary))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def headline(summary: ComparisonSummary) -> str:
    """What won, one sentence or two a budget, in the words that the intervals allow."""
    if not summary.overall:
        return "No selector has a finished cell yet."
    parts = [_verdict(summary, part) for part in summary.overall]
    if not summary.reference_found:
        parts.append(f"No finished cell is of the reference {summary.reference}: there are no differences to it.")
    return " ".join(parts)


def _verdict(summary: ComparisonSummary, part: Overall) -> str:
    first = part.standings[0]
    where = "" if part.budget is None else f"Budget {part.budget}: "
    gap = "" if first.mean_gap is None else f" ({first.mean_gap:.4f} over {_targets(first.targets)})"
    if len([one for one in part.standings if one.at_budget]) > 1:
        sentences = [f"{where}{first.selector} has the smallest mean gap to the best{gap}."]
    else:
        sentences = [f"{where}{first.selector} has no other selector beside it yet."]
    if first.compared:
        sentences.append(
            f"Its difference to {summary.reference} has an interval below zero on {first.wins} of "
            f"{_targets(first.compared)} and above zero on {first.losses}."
        )
    sentences.append(_other_winners(part, first))
    return " ".join(sentence for sentence in sentences if sentence)


def _other_winners(part: Overall, first: Standing) -> str:
    """Those with more wins than the first; beside a reference that is the first, all that have any."""
    compared = [one for one in part.standings if one.compared and one is not first]
    winners = sorted((one for one in compared if one.wins > first.wins), key=lambda one: (-one.wins, one.selector))
    if winners:
        shown = ", ".join(f"{one.selector} on {one.wins} of {one.compared}" for one in winners)
        return f"{'More i' if first.compared else 'I'}ntervals below zero: {shown}."
    if compared and not first.compared:
        return "No other selector has an interval below zero on any target."
    return ""


def _targets(number: int) -> str:
    return f"{number} target" + ("s" if number != 1 else "")


def state(summary: ComparisonSummary) -> str:
    """How much of the comparison is done."""
    lines = [f"{count(summary.cells)} cells, scored on the {summary.split} rows."] if summary.cells else []
    if summary.missing:
        lines.append(f"Unfinished: {count(summary.missing)} of {count(summary.expected)} cells are missing.")
    if summary.unscored:
        lines.append(f"Without a loss of any row, and left out: {'; '.join(summary.unscored)}.")
    return " ".join(lines)


def _budget_sections(summary: ComparisonSummary, budget: str | None, plots: str) -> list[str]:
    at = "" if budget is None else f" at budget {escape(budget)}"
    groups = [group for group in summary.at(budget) if group.results]
    (overall,) = (part for part in summary.overall if part.budget == budget)

    def figures(*kinds: str) -> str:
        return _figures(summary, budget, kinds, plots)

    sections = [
        _section(
            f"All targets{at}", markdown_of(overall_grid(overall, summary.reference)), figures("losses", "differences")
        )
    ]
    sections += [
        _section(
            f"{escape(group.target)}{at}",
            markdown_of(target_grid(group, summary.reference)),
            escape(unequal_rows(group)),
        )
        for group in groups
    ]
    return [
        *sections,
        _section(f"What was picked{at}", *map(_picked, groups), figures("distance", "sources", "length")),
        _section(f"Picks that two selectors share{at}", markdown_of(overlap_grid(groups, overall)), figures("overlap")),
        _section(f"Cost{at}", markdown_of(cost_grid(groups, overall)), figures("cost", "training")),
    ]


def _picked(group: Group) -> str:
    table = markdown_of(picked_grid(group))
    return f"**{escape(group.target)}**{own_vendi(group)}\n\n{table}" if table else ""


def _deciles(summary: ComparisonSummary) -> str:
    ranks = "\n".join(f"- {escape(line)}" for line in decile_ranks(summary.deciles))
    return "\n\n".join(part for part in (ranks, markdown_of(decile_grid(summary.deciles))) if part)


def _section(title: str, *parts: str) -> str:
    kept = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *kept]) if kept else ""


def _figures(summary: ComparisonSummary, budget: str | None, kinds: Sequence[str], plots: str) -> str:
    folder = f"{plots.rstrip('/')}/" if plots else ""
    links = [
        f"![{escape(figure.title)}]({folder}{figure.name})"
        for figure in planned(summary)
        if figure.budget == budget and figure.kind in kinds
    ]
    return "\n\n".join(links)


def notes(summary: ComparisonSummary) -> list[str]:
    """How to read it, a sentence or two each."""
    reference = summary.reference
    lines = [
        "Losses are nats a supervised token, lower is better; means are over seeds and test rows.",
        "Intervals are of 95%, from resampling seeds and test rows. With one seed they carry no spread between "
        "seeds, and with two or three they tell that spread only roughly.",
    ]
    if summary.reference_found:
        lines += [
            f"A difference to {reference} is paired: the same test rows, the same seeds. An interval below zero is a "
            "better model; one that contains zero tells the two apart in neither direction.",
            "Of many differences that are truly zero, about one in forty has an interval below zero by chance, and as "
            "many above.",
        ]
    lines += [
        "The best of a target is chosen on the rows that the gaps are measured on, which flatters it.",
        "A selector with fewer targets or seeds than another is not strictly comparable with it.",
        "OT distance and mean cosine are of the picks to held-out target rows; the Vendi score is the effective "
        "number of different rows; length bias is the mean tokens of a pick over those of a pool row; picks that two "
        "selectors share are a part of the smaller choice.",
    ]
    if any(not one.at_budget and part.budget is not None for part in summary.overall for one in part.standings):
        lines.append("Selectors without a budget (all rows) are shown for comparison, and are not ranked.")
    if summary.deciles:
        lines.append("Decile 1 holds the best aligned rows: where alignment predicts the loss, Spearman is near -1.")
    return lines
