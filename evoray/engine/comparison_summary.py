"""From the finished cells of a comparison to what its report shows. Pure: the same cells give the same summary.

Differences are paired: the same test rows under the same seeds, and a seed that only one of the two has is left out.
What is not there yet is left out too, so a comparison can be looked at while it runs. An entry without a budget (all
rows) stands in every group of its target for comparison, but is neither ranked there nor taken for the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from evoray.engine.comparison_cells import Cell, Floats, losses_SR, mean, read_cells, verdicts_SR
from evoray.engine.comparison_deciles import analyse_deciles
from evoray.evaluation.intervals import named, paired_difference_seeds
from evoray.report.comparison import (
    ComparisonSummary,
    Group,
    Overall,
    Overlap,
    SelectorResult,
    Standing,
    Untrained,
)
from evoray.report.summary import Interval

_BOOTSTRAP_SEED = 0

Runs = Mapping[str, Sequence[Cell]]  # cells of each selector, one a seed
Scores = Callable[[Sequence[Cell]], Floats]


def summarise_comparison(
    cells: Sequence[Mapping[str, Any]], *, reference: str, pool: Mapping[str, Any], expected: int | None = None
) -> ComparisonSummary:
    """All groups, standings and deciles of the cells that are there.

    reference: the selector that the differences are to. pool: `sources`, rows of each source, and `tokens_mean` of a
    row. expected: cells of the finished comparison. Raises StageError as `read_cells` does.
    """
    known = read_cells(cells)
    scored = [cell for cell in known if cell.scored]
    selections = [cell for cell in scored if cell.kind == "selection"]
    tokens_mean = pool.get("tokens_mean")
    groups = [
        _group(target, budget, scored, reference, tokens_mean)
        for budget in _budgets(selections)
        for target in dict.fromkeys(cell.target for cell in scored)
        if budget in _budgets_of(target, selections)
    ]
    budgets = dict.fromkeys(group.budget for group in groups if group.results)
    return ComparisonSummary(
        reference=reference,
        reference_found=any(cell.selector == reference for cell in selections),
        split=", ".join(dict.fromkeys(cell.split for cell in known)),
        cells=len(known),
        expected=expected,
        unscored=tuple(cell.name for cell in known if not cell.scored),
        pool_sources=dict(pool.get("sources") or {}),
        pool_tokens_mean=tokens_mean,
        groups=tuple(groups),
        overall=tuple(_overall(budget, groups) for budget in budgets),
        deciles=analyse_deciles([cell for cell in scored if cell.kind == "decile"]),
    )


def _budgets(selections: Sequence[Cell]) -> list[str | None]:
    """Budgets from the smallest to the largest by the rows they bought; None, for targets without any, last."""
    texts = {cell.budget for cell in selections if cell.budget is not None}
    rows = {text: mean([cell.rows for cell in selections if cell.budget == text]) or 0.0 for text in texts}
    return [*sorted(texts, key=lambda text: (rows[text], text)), None]


def _budgets_of(target: str, selections: Sequence[Cell]) -> set[str | None]:
    found = {cell.budget for cell in selections if cell.target == target}
    return found - {None} or {None}


def _group(target: str, budget: str | None, cells: Sequence[Cell], reference: str, tokens_mean: float | None) -> Group:
    mine = [cell for cell in cells if cell.target == target]
    chosen = [cell for cell in mine if cell.kind == "selection" and cell.budget in (budget, None)]
    runs = {name: [cell for cell in chosen if cell.selector == name] for name in {cell.selector for cell in chosen}}
    # An entry of this name with a budget and one without would share a seed: the one of this budget counts.
    runs = {name: [one for one in found if one.budget == budget] or found for name, found in runs.items()}
    losses = {name: score for name, found in runs.items() if (score := _score(losses_SR(found))) is not None}
    ranked = [name for name in losses if runs[name][0].budget is not None] or list(losses)
    most = max((len(runs[name]) for name in ranked), default=0)
    best = min((name for name in ranked if len(runs[name]) == most), key=lambda n: (losses[n].value, n), default=None)
    ranks = dict(zip(ranked, stats.rankdata([losses[name].value for name in ranked]), strict=True)) if ranked else {}
    results = [
        _result(runs, name, losses[name], reference, best, float(ranks[name]) if name in ranks else None, tokens_mean)
        for name in sorted(losses, key=lambda name: (losses[name].value, name))
    ]
    untrained = next((cell for cell in mine if cell.kind == "untrained"), None)
    return Group(
        target=target,
        budget=budget,
        test_rows=len(mine[0].losses),
        results=tuple(results),
        untrained=None if untrained is None else _untrained(untrained, runs.get(reference, ())),
        best=best,
        vendi_target=mean([cell.vendi_target for cell in mine]),
        overlap=_overlap({name: runs[name] for name in sorted(losses) if runs[name][0].budget is not None}),
    )


def _result(
    runs: Runs,
    name: str,
    loss: Interval,
    reference: str,
    best: str | None,
    rank: float | None,
    tokens_mean: float | None,
) -> SelectorResult:
    cells = runs[name]
    base = runs.get(reference, ()) if name != reference else ()
    against = _paired(cells, base, losses_SR)
    pick_tokens = mean([cell.tokens / cell.rows for cell in cells if cell.tokens is not None and cell.rows])
    return SelectorResult(
        selector=name,
        seeds=tuple(sorted(cell.seed for cell in cells if cell.seed is not None)),
        at_budget=cells[0].budget is not None,
        loss=loss,
        scored_rows=int((~np.isnan(losses_SR(cells)).any(axis=0)).sum()),
        against=against,
        paired_seeds=len(_common(cells, base)[0]),
        wins=None if against is None else against.high < 0,
        accuracy=_score(verdicts_SR(cells)),
        accuracy_against=_paired(cells, base, verdicts_SR),
        gap=None if best is None else _paired(cells, runs[best], losses_SR),
        rank=rank,
        distance=mean([cell.distance for cell in cells]),
        cosine=mean([cell.cosine for cell in cells]),
        vendi=mean([cell.vendi for cell in cells]),
        rows=mean([cell.rows for cell in cells]),
        tokens=mean([cell.tokens for cell in cells]),
        length_bias=pick_tokens / tokens_mean if pick_tokens is not None and tokens_mean else None,
        sources=_shares(cells),
        select_seconds=mean([cell.seconds.get("select") for cell in cells]),
        train_seconds=mean([cell.seconds.get("train") for cell in cells]),
        training_tokens=mean([cell.training_tokens for cell in cells]),
    )


def _untrained(cell: Cell, reference: Sequence[Cell]) -> Untrained | None:
    """It has one cell for all seeds: paired with every seed of the reference."""
    loss = _score(losses_SR([cell]))
    if loss is None:
        return None
    against = _difference(losses_SR([cell] * len(reference)), losses_SR(reference)) if reference else None
    return Untrained(loss=loss, accuracy=_score(verdicts_SR([cell])), against=against)


def _score(values_SR: Floats) -> Interval | None:
    """Mean over seeds and rows with its interval over both; None where no row has a value under every seed."""
    return _difference(values_SR, np.zeros_like(values_SR))


def _paired(cells: Sequence[Cell], others: Sequence[Cell], scores: Scores) -> Interval | None:
    """Mean difference over the seeds that both have; None where they share none."""
    first, second = _common(cells, others)
    return _difference(scores(first), scores(second)) if first else None


def _common(cells: Sequence[Cell], others: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    theirs = {cell.seed: cell for cell in others}
    shared = [cell for cell in cells if cell.seed in theirs]
    return shared, [theirs[cell.seed] for cell in shared]


def _difference(a_SR: Floats, b_SR: Floats) -> Interval | None:
    if np.isnan(a_SR - b_SR).any(axis=0).all():
        return None
    return Interval(**named(paired_difference_seeds(a_SR, b_SR, _BOOTSTRAP_SEED)))


def _shares(cells: Sequence[Cell]) -> dict[str, float]:
    """Share of the picks by source, the mean over seeds, the largest first."""
    counts = [cell.sources for cell in cells if cell.sources and sum(cell.sources.values()) > 0]
    shares = {
        name: math.fsum(one.get(name, 0) / sum(one.values()) for one in counts) / len(counts)
        for name in {name for one in counts for name in one}
    }
    return {name: shares[name] for name in sorted(shares, key=lambda name: (-shares[name], name)) if shares[name]}


def _overlap(runs: Runs) -> Overlap | None:
    picks = {name: {cell.seed: set(cell.ids) for cell in cells if cell.ids} for name, cells in runs.items()}
    names = [name for name, found in picks.items() if found]
    if len(names) < 2:
        return None
    shares = tuple(tuple(_shared(picks[a], picks[b]) for b in names) for a in names)
    return Overlap(selectors=tuple(names), shares=shares)


def _shared(first: Mapping[Any, set[str | int]], second: Mapping[Any, set[str | int]]) -> float | None:
    seeds = sorted(first.keys() & second.keys(), key=str)
    return mean([len(first[seed] & second[seed]) / min(len(first[seed]), len(second[seed])) for seed in seeds])


def _overall(budget: str | None, groups: Sequence[Group]) -> Overall:
    here = [group for group in groups if group.budget == budget]
    names = {result.selector for group in here for result in group.results}
    standings = [_standing([r for group in here for r in group.results if r.selector == name]) for name in names]

    def place(one: Standing) -> tuple[bool, int, float, str]:
        return not one.at_budget, -one.targets, math.inf if one.mean_gap is None else one.mean_gap, one.selector

    return Overall(budget=budget, standings=tuple(sorted(standings, key=place)))


def _standing(results: Sequence[SelectorResult]) -> Standing:
    differences = [result.against.value for result in results if result.against is not None]
    return Standing(
        selector=results[0].selector,
        at_budget=results[0].at_budget,
        targets=len(results),
        mean_gap=mean([result.gap.value for result in results if result.gap is not None]),
        mean_against=mean(differences),
        compared=len(differences),
        wins=sum(result.wins is True for result in results),
        losses=sum(result.loses is True for result in results),
        mean_rank=mean([result.rank for result in results]),
    )
