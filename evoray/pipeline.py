"""The whole flow, readable top to bottom: run, and each of its stages on its own.

`run` plays rounds until the config's number is reached. Every step leaves a record when its work is done, so
that the same call again goes on after the last one, whatever ended it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from evoray.config import (
    RunConfig,
    check_metric,
)
from evoray.engine.arms import best_round
from evoray.engine.candidates import Candidates, with_candidates
from evoray.engine.choose import check_picks
from evoray.engine.context import Context
from evoray.engine.events import Display, Events
from evoray.engine.feedback import feedback_identity
from evoray.engine.generate import Generator
from evoray.engine.goals import check_cascade
from evoray.engine.labels import check_labels
from evoray.engine.lock import run_lock
from evoray.engine.pools import read_pool
from evoray.engine.proxy import cheap_proxy, identify_model, ready_proxy
from evoray.engine.round import play_round, score_untrained, used_ids
from evoray.engine.rundir import Rounds, check_manifest, open_run, start_anew
from evoray.engine.selectors import check_proxy, is_featured, needs_of, source_identity, with_representation
from evoray.engine.session import session
from evoray.engine.site import Site
from evoray.engine.stages import open_target
from evoray.engine.summary import summarise_run
from evoray.evaluation.scoring import Scoring
from evoray.models.folder import Folder
from evoray.report.shown import shown
from evoray.report.summary import RunSummary
from evoray.report.views import run_view
from evoray.reporting import write_reports
from evoray.storage import Storage


@shown(lambda result: run_view(result.out, result.summary))
@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    out: str  # run directory or URI
    best: int  # round whose model is in `best/`; 0: no round beat the untrained model
    summary: RunSummary


def run(
    config: RunConfig, *, display: Display | None = None, anew: bool = False, command: str = "evoray run"
) -> RunResult:
    """Run the whole loop, or go on where it was interrupted.

    Raises UserError's children for wrong input, StageError where a stage cannot finish.
    """
    config = config.model_copy(update={"features": with_representation(config.features, config.selection)})
    check_metric(config.features, config.selection)
    check_cascade(config.features, needs_of(config.selection), config.selection.k)
    check_proxy(config)
    Scoring.of(config.evaluation)  # what is wrong with it is said before anything starts
    storage = Storage(config.out)
    with run_lock(storage):
        if anew:
            start_anew(storage)
        open_run(storage, config)
        with session(config.cluster) as workers:
            workers.check_training(config.training.workers)  # now, and not when all features are computed
            store = storage if config.store is None else Storage(config.store)
            site = Site(storage=store, session=workers, events=Events(storage, display).about(run=storage.uri))
            prepared, candidates = _prepare(config, storage, site)
            score_untrained(prepared)
            context, ending = _play(prepared, candidates)
            best = best_round(context, context.config.rounds)
            summary = summarise_run(context, best, command, ending)
            write_reports(storage, summary)
    return RunResult(out=storage.uri, best=best, summary=summary)


def _play(prepared: Context, candidates: Candidates) -> tuple[Context, str | None]:
    """Play rounds up to the config's number, or until one has nothing to choose from, or several made nothing better.

    The context of the last one that was played, with the number of rounds in its config; and why there are no more.
    """
    context, asked, patience = prepared, prepared.config.rounds, prepared.config.patience
    played, ending = 0, None
    for number in range(1, asked + 1):
        grown = with_candidates(prepared, candidates, number, len(used_ids(prepared, number, "selected")))
        if grown is None:
            ending = f"round {number} has no usable candidate left, and the best model so far stands"
            break
        context, played = grown, number
        play_round(context, number)
        since = number - best_round(context, number)
        if patience is not None and since >= patience and number < asked:
            ending = f"{since} rounds up to round {number} made no better model (patience)"
            break
    if ending is not None:
        prepared.site.events.display.note(f"the run ends: {ending}")
    return replace(context, config=prepared.config.model_copy(update={"rounds": played})), ending


def _prepare(config: RunConfig, storage: Storage, site: Site) -> tuple[Context, Candidates]:
    """Read pool and target, pin the identity of all inputs, generate the first candidates, warm the proxy up."""
    units = config.reading.unit_rows
    if config.labels is not None:
        check_labels(config.labels)
    listed = config.evaluation.list_options
    learner = identify_model(config.model, site.events)
    proxied = is_featured(config.selection)
    same = config.proxy_model == config.model
    proxy_model = learner if same or not proxied else identify_model(config.proxy_model, site.events)
    config = config.of_models(learner.name, proxy_model.name if proxied else config.proxy_model)
    align = open_target(config.target, "align", config.seed, units, site, listed)
    validate = open_target(config.target, "validate", config.seed, units, site, listed)
    static = None if config.pool is None else read_pool(config.pool, config.reading, site)
    if config.selection.selector != "all" and static is not None and config.generation is None:
        check_picks(config.selection.k, config.rounds, static.usable)
    generator = None
    if config.generation is not None:
        # A generator sees questions without their options listed: these are a part of their own.
        shown = open_target(config.target, "align", config.seed, units, site) if listed else align
        generator = Generator.of(config.generation, shown, config.target, config.seed, site)
    cheap = cheap_proxy(config.model, config.features, site) if proxied else None
    ready = [Folder.at(path).fingerprint() for path in config.features.adapters]
    check_manifest(
        storage,
        {
            "pool": None if static is None else static.fingerprint,
            "generator": None if generator is None else generator.identity,
            "align": align.source.identity,
            "validate": validate.source.identity,
            "model": learner.identity,
            "proxy": proxy_model.identity,
            "adapters": ready,
            "cascade": None if cheap is None else cheap.identity,
            "scorer": Scoring.of(config.evaluation).identity(),
            "selector": source_identity(config.selection),
            "feedback": feedback_identity(config.feedback),
            "seed": config.seed,
        },
    )
    rounds = Rounds(storage, site.events)
    candidates = Candidates(config=config, static=static, generator=generator, site=site, rounds=rounds)
    pool = candidates.of_round(1)
    proxy = None
    if proxied:
        proxy = ready_proxy(*proxy_model, config.features, config.lora, config.feature_seed, pool, site)
    context = Context(
        config=config,
        storage=storage,
        site=site,
        pool=pool,
        align=align,
        validate=validate,
        model_identity=learner.identity,
        proxy=proxy,
        cheap=cheap,
    )
    return context, candidates
