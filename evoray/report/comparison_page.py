"""A comparison as one offline page: what won and how surely, then the tables with the plots and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evoray.report.comparison import ComparisonSummary, Group
from evoray.report.comparison_figures import PlannedFigure, planned, shown_groups
from evoray.report.comparison_markdown import headline, notes, state
from evoray.report.comparison_plots import draw
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
from evoray.report.inline_svg import inline
from evoray.report.page import Code, Fact, Facts, Page, Part, Plot, Plots, Prose, Section, Table, cell, render_page
from evoray.report.table import Grid, count

_TEXTS = {
    "losses": "One line a selector, the best over all targets on top; left is better.",
    "differences": "Paired by test row and seed. What lies whole to the left of zero is better than the reference.",
    "distance": "Selectors by number. Where points fall from right to left, nearer picks train better.",
    "overlap": "Picks of the line that are also picks of the column, in percent of the smaller choice.",
    "sources": "Shares of the picks, on top those of the pool itself.",
    "length": "To the right of one: longer rows than the pool's.",
    "cost": "Selectors by number; to the left and down is cheaper and better.",
    "training": "Selectors by number; more tokens are more training, whatever the rows.",
    "deciles": "Models trained on each tenth of the ranked pool, 1 the best aligned, and the alignment predicted.",
}


def render_comparison_page(summary: ComparisonSummary) -> str:
    """The page. Sections without content are left out."""
    plots = _plots(summary)
    sections = [Section(key="state", title="State", parts=_state(summary))]
    for number, budget in enumerate(summary.budgets, 1):
        sections += _budget_sections(summary, budget, number, plots)
    waiting = _table("Loss of the untrained model", waiting_grid([one for one in summary.groups if not one.results]))
    sections += [
        Section(key="waiting", title="Targets without a finished selector", parts=waiting),
        Section(key="deciles", title="Deciles of the pool", parts=_deciles(summary, plots)),
        Section(key="again", title="To get the same again", parts=_again(summary)),
        Section(key="notes", title="How to read this", parts=[Prose(lines=notes(summary), listed=True)]),
    ]
    return render_page(
        Page(
            title="Comparison of selectors",
            lead=headline(summary),
            tone=_tone(summary),
            sections=[section for section in sections if section.parts],
            footer=f"Written by evoray {summary.versions.get('evoray', '')}".rstrip(),
        )
    )


def _tone(summary: ComparisonSummary) -> str:
    """Better only where the first of every budget has more wins than losses, and worse only the other way round."""
    firsts = [part.standings[0] for part in summary.overall]
    if firsts and all(first.wins > first.losses for first in firsts):
        return "better"
    return "worse" if firsts and all(first.wins < first.losses for first in firsts) else "unclear"


def _state(summary: ComparisonSummary) -> list[Part]:
    names = {one.selector for part in summary.overall for one in part.standings}
    seeds = {seed for group in summary.groups for one in group.results for seed in one.seeds}
    targets = {group.target for group in summary.groups}
    whole = "" if summary.expected is None else f"of {count(summary.expected)}"
    facts = [
        Fact(name="Cells", value=count(summary.cells), beside=whole),
        Fact(name="Selectors", value=count(len(names)), beside=f"the reference is {summary.reference}"),
        Fact(name="Targets", value=count(len(targets))),
        Fact(name="Seeds", value=count(len(seeds))),
    ]
    return [Facts(facts=facts), *([Prose(lines=[state(summary)])] if state(summary) else [])]


def _budget_sections(
    summary: ComparisonSummary, budget: str | None, number: int, plots: Mapping[PlannedFigure, Plot]
) -> list[Section]:
    """What is shown of one budget. number: what tells its links from those of the others."""
    at = "" if budget is None else f" at budget {budget}"
    groups = [group for group in summary.at(budget) if group.results]
    (overall,) = (part for part in summary.overall if part.budget == budget)

    def drawn(*kinds: str) -> list[Part]:
        found = [plot for plan, plot in plots.items() if plan.budget == budget and plan.kind in kinds]
        return [Plots(plots=found)] if found else []

    picked = [part for group in groups for part in _table(group.target + own_vendi(group), picked_grid(group))]
    shared = _table("Mean over targets", overlap_grid(groups, overall))
    cost = _table("Means over targets", cost_grid(groups, overall))
    standing = overall_grid(overall, summary.reference)
    return [
        Section(
            key=f"all-{number}",
            title=f"All targets{at}",
            parts=[Table(caption="Selectors, the best first", grid=standing), *drawn("losses", "differences")],
        ),
        *(
            Section(key=f"target-{number}-{place}", title=f"{group.target}{at}", parts=_target(group, summary))
            for place, group in enumerate(groups, 1)
        ),
        Section(
            key=f"picked-{number}",
            title=f"What was picked{at}",
            parts=[*picked, *drawn("distance", "sources", "length")],
        ),
        Section(
            key=f"shared-{number}", title=f"Picks that two selectors share{at}", parts=[*shared, *drawn("overlap")]
        ),
        Section(key=f"cost-{number}", title=f"Cost{at}", parts=[*cost, *drawn("cost", "training")]),
    ]


def _target(group: Group, summary: ComparisonSummary) -> list[Part]:
    table = Table(caption=f"On {count(group.test_rows)} test rows", grid=target_grid(group, summary.reference))
    uneven = unequal_rows(group)
    return [table, *([Prose(lines=[uneven])] if uneven else [])]


def _deciles(summary: ComparisonSummary, plots: Mapping[PlannedFigure, Plot]) -> list[Part]:
    drawn = [plot for plan, plot in plots.items() if plan.kind == "deciles"]
    ranks = decile_ranks(summary.deciles)
    return [
        *([Prose(lines=ranks, listed=True)] if ranks else []),
        *([Plots(plots=drawn)] if drawn else []),
        *_table("Every decile", decile_grid(summary.deciles)),
    ]


def _again(summary: ComparisonSummary) -> list[Part]:
    versions = Grid(header=("package", "version"), rows=tuple(summary.versions.items())) if summary.versions else None
    config: Sequence[Part] = ()
    if summary.config is not None:
        config = [Code(caption="The config with all its defaults (config.json)", text=summary.config, folded=True)]
    return [*config, *_table("Versions", versions, folded=True)]


def _plots(summary: ComparisonSummary) -> dict[PlannedFigure, Plot]:
    drawn = draw(summary, titled=False)
    plots = {}
    for number, plan in enumerate(planned(summary), 1):
        key, text = f"plot-{number}", _TEXTS[plan.kind]
        title = cell(plan.title.replace("the reference", summary.reference))
        panels = len(summary.deciles) if plan.kind == "deciles" else len(shown_groups(summary, plan))
        svg = inline(drawn[plan.name], key, title, text)
        plots[plan] = Plot(key=key, title=title, text=text, svg=svg, wide=panels > 1)
    return plots


def _table(caption: str, grid: Grid | None, *, folded: bool = False) -> list[Part]:
    return [] if grid is None else [Table(caption=caption, grid=grid, folded=folded)]
