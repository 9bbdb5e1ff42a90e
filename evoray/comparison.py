"""A comparison of selectors, readable top to bottom: select, train, score, and one row for each cell.

A cell is a target, a selector, a budget and a seed. Features, selections, models and scores are kept by the fingerprint
of all that they depend on: equal ones are shared, and the same call again goes on where it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evoray.comparison_config import ComparisonConfig
from evoray.config import check_metric
from evoray.engine.bench import Bench, entries_of
from evoray.engine.cell_loops import check_loops, play_loop
from evoray.engine.cell_models import CellModel, jobs_of, train_all
from evoray.engine.cell_selections import Wanted, select_all
from evoray.engine.cell_trials import try_all
from evoray.engine.cells import model_cell, untrained_cell
from evoray.engine.comparison_summary import summarise_comparison
from evoray.engine.events import Display, Events
from evoray.engine.lock import run_lock
from evoray.engine.proxy import Checkpoint
from evoray.engine.rundir import environment
from evoray.engine.session import session
from evoray.engine.site import Site
from evoray.engine.stages import Scores, score, scores_name
from evoray.engine.summary import mean_tokens, source_counts
from evoray.evaluation.scoring import Scoring
from evoray.report.comparison import ComparisonSummary
from evoray.report.comparison_markdown import headline
from evoray.report.shown import shown
from evoray.report.views import compared_view
from evoray.reporting import write_reports
from evoray.storage import Storage

CELLS, CONFIG = "cells.jsonl", "config.json"


@shown(lambda result: compared_view(result.out, result.summary))
@dataclass(frozen=True, kw_only=True)
class Compared:
    """A finished comparison."""

    out: str  # folder or URI
    headline: str
    summary: ComparisonSummary


def compare(config: ComparisonConfig, *, display: Display | None = None) -> Compared:
    """Run all cells of a comparison, or go on where it was interrupted; a report is written after each seed.

    Raises UserError's children for wrong input, StageError where a stage cannot finish.
    """
    entries = entries_of(config)
    for entry in entries:
        check_metric(entry.features, entry.selection)
    check_loops(config, entries)
    Scoring.of(config.evaluation)
    storage = Storage(config.out)
    with run_lock(storage), session(config.cluster) as workers:
        bench = Bench.of(config, Site(storage=storage, session=workers, events=Events(storage, display)))
        storage.write_json(CONFIG, config.model_dump(by_alias=True, mode="json"), sort_keys=False)
        cells = [_untrained(bench, target) for target in config.targets]
        for seed in config.seeds:
            cells += _play(bench, seed)
            summary = _report(bench, storage, cells)
    return Compared(out=storage.uri, headline=headline(summary), summary=summary)


def _play(bench: Bench, seed: int) -> list[dict[str, Any]]:
    """All cells of one seed."""
    config = bench.config
    wanted = [
        Wanted(entry=entry, target=target, budget=budget, seed=seed)
        for entry in bench.entries
        for target in config.targets
        for budget in (config.budgets if entry.selection.selector != "all" else config.budgets[:1])
    ]
    loops = {one: play_loop(bench, one) for one in wanted if one.entry.rounds > 1}
    played = {one: loop.selection for one, loop in loops.items()}
    free = [one for one in wanted if one not in loops and one.entry.tokens_of is None]
    chosen = try_all(bench, select_all(bench, free))
    matched = select_all(bench, [one for one in wanted if one.entry.tokens_of is not None], {**played, **chosen})
    single = {**chosen, **matched}
    selections = {**played, **single}
    jobs = jobs_of(bench, single, {one: loop.steps for one, loop in loops.items()})
    models = train_all(bench, jobs) | {one: loop.model for one, loop in loops.items()}
    cells = []
    for target in config.targets:
        scores = _score(bench, target, {one: models[one] for one in wanted if one.target == target})
        for one, (found, identity) in scores.items():
            cell = model_cell(one, found, identity, selections[one], models[one])
            bench.site.storage.write_json(f"cells/{cell['cell']}.json", cell)
            cells.append(cell)
    return cells


def _score(bench: Bench, target: str, trained: Mapping[Wanted, CellModel]) -> dict[Wanted, tuple[Scores, str]]:
    """Scores of models on a target's test rows, and their fingerprints."""
    rows = bench.target(target, "test", bench.config.seeds[0])
    name, identity = bench.config.model, bench.model_identity
    models = {one.shown: Checkpoint.of(name, identity, model.weights) for one, model in trained.items()}
    evaluation, max_tokens = bench.config.evaluation, bench.config.features.max_tokens
    found = score(models, rows, evaluation, max_tokens, bench.site)
    scoring = Scoring.of(bench.site.session.settled(evaluation))
    names = {name: scores_name(model, rows, scoring, max_tokens) for name, model in models.items()}
    return {one: (found[one.shown], names[one.shown]) for one in trained}


def _untrained(bench: Bench, target: str) -> dict[str, Any]:
    rows = bench.target(target, "test", bench.config.seeds[0])
    model = {"untrained model": Checkpoint.of(bench.config.model, bench.model_identity)}
    (found,) = score(model, rows, bench.config.evaluation, bench.config.features.max_tokens, bench.site).values()
    cell = untrained_cell(target, found, bench.model_identity)
    bench.site.storage.write_json(f"cells/{cell['cell']}.json", cell)
    return cell


def _report(bench: Bench, storage: Storage, cells: Sequence[Mapping[str, Any]]) -> ComparisonSummary:
    """Write cells, summary, report and plots of what is done so far."""
    config = bench.config
    budgets = len(config.budgets)
    per_seed = sum(budgets if entry.selection.selector != "all" else 1 for entry in bench.entries)
    summary = summarise_comparison(
        cells,
        reference=config.reference,
        pool=_pool_facts(bench),
        expected=len(config.targets) * (1 + per_seed * len(config.seeds)),
    )
    summary = replace(summary, config=storage.read(CONFIG).decode(), versions=environment()["versions"])
    storage.write(CELLS, "".join(json.dumps(cell) + "\n" for cell in cells).encode())
    write_reports(storage, summary)
    return summary


def _pool_facts(bench: Bench) -> dict[str, Any]:
    tokens_mean = None
    if bench.yardstick is not None:
        tokens_mean = mean_tokens(bench.features(bench.yardstick.features).pool.store)
    return {"sources": source_counts(bench.pool), "tokens_mean": tokens_mean}
