"""The final table: every arm scored on the test rows, and what a report tells beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from evoray.engine.arms import score_arms
from evoray.engine.context import Context
from evoray.engine.curves import training_curves
from evoray.engine.events import logged
from evoray.engine.examples import pick_examples, set_aside_examples
from evoray.engine.feature_map import map_of_round
from evoray.engine.labels import good_ids
from evoray.engine.pools import Pool
from evoray.engine.remote import in_task
from evoray.engine.rundir import CONFIG, MANIFEST, PLAN, SELECTED, Rounds, environment, identity_of
from evoray.engine.selected import chosen_sources, reason_counts, value_counts
from evoray.engine.stages import Scores, Target, open_target
from evoray.engine.stored import POOL, Features
from evoray.engine.workers import PoolRows
from evoray.errors import StorageError
from evoray.evaluation.intervals import bootstrap_mean, named, paired_difference
from evoray.pool import find_target
from evoray.report.costs import Forecast
from evoray.report.evidence import Manifest, SetAside
from evoray.report.summary import (
    Arm,
    Cascade,
    Certificate,
    Choice,
    GeneratedRound,
    Interval,
    PathPoint,
    Progress,
    Recall,
    RunSummary,
    SourceShare,
    TraceStep,
)
from evoray.storage import Storage, UnitStore

_BOOTSTRAP_SEED = 0
_TRACE_LINES = 8  # of a round's descent
_GENERATED, _TARGET = "generated: ", "target: "  # before the reasons of rows that are not of the pool


def final_target(context: Context) -> Target:
    """The rows that the final table is made on: test, or validate where the target has no test rows."""
    config = context.config
    if not in_task(_has_test, config.target):
        context.site.events.display.note("the target has no test rows: the final table is made on validate")
        return context.validate
    return open_target(
        config.target, "test", config.seed, config.reading.unit_rows, context.site, config.evaluation.list_options
    )


def _has_test(target: str) -> bool:
    return find_target(target).test is not None


def summarise_run(context: Context, best: int, command: str, ending: str | None = None) -> RunSummary:
    """Score every arm on the final rows and gather what the report shows. ending: why there are no more rounds."""
    target = final_target(context)
    numbers = range(1, context.config.rounds + 1)
    control = all(context.storage.exists(f"{Rounds.prefix(n)}/control_trained.json") for n in numbers)
    good = None if context.config.labels is None else good_ids(context.config.labels)
    kinds = ("control", "adapter") if control else ("adapter",)
    trained = [(number, kind) for number in numbers for kind in kinds]
    base, *rest = score_arms(context, target, [(0, "adapter"), *trained])
    scores = dict(zip(trained, rest, strict=True))
    arms = [_arm(context, "base", base, None, None, good, ())]
    for number in numbers:
        random = scores.get((number, "control"))
        if random is not None:
            used = _ids(context, number, "control_drawn")
            arms.append(_arm(context, f"random {number}", random, None, ("control_trained", number), good, used))
        used = _ids(context, number, "selected")
        mine = scores[number, "adapter"]
        arms.append(_arm(context, f"round {number}", mine, random, ("trained", number), good, used))
    shown = max(best, 1)
    config, chosen = context.config, f"{Rounds.prefix(shown)}/{SELECTED}"
    return RunSummary(
        name="evoray run",
        split=target.split,
        target_rows=target.rows,
        arms=tuple(arms),
        best=f"round {best}" if best else "base",
        choice=_choice(context, shown),
        command=command,
        ending=ending,
        progress=tuple(_progress(context, number) for number in numbers),
        generated=tuple(_generated(context)),
        path=tuple(point for number in numbers for point in _path(context, number)),
        certificates=tuple(c for number in numbers for c in _certificates(context, number)),
        trace=tuple(step for number in numbers for step in _trace(context, number)),
        quarantine=quarantine_counts(context, target),
        timings=timings(context.storage),
        versions=environment()["versions"],
        feature_map=map_of_round(context.storage, context.site.storage, shown, config.features.representation),
        examples=pick_examples(context.storage, chosen, context.align.source, config.reading.max_chars),
        set_aside=_set_aside(context, target),
        curves=tuple(curve for number in numbers for curve in training_curves(context.storage, number)),
        train_seconds=_train_seconds(context, trained),
        config=context.storage.read(CONFIG).decode(),
        manifest=_manifest(context.storage),
        forecast=_forecast(context),
    )


def _ids(context: Context, number: int, state: str) -> Sequence[str]:
    ids: list[str] = context.storage.read_json(f"{Rounds.prefix(number)}/{state}.json")["ids"]
    return ids


def _arm(
    context: Context,
    name: str,
    scores: Scores,
    random: Scores | None,
    trained: tuple[str, int] | None,
    good: set[str] | None,
    ids: Sequence[str],
) -> Arm:
    facts: Mapping[str, Any] = {}
    if trained is not None:
        facts = context.storage.read_json(f"{Rounds.prefix(trained[1])}/{trained[0]}.json")
    answered = [float(correct) for correct in scores.correct if correct is not None]
    difference = None
    if random is not None:
        difference = Interval(**named(paired_difference(scores.loss, random.loss, _BOOTSTRAP_SEED)))
    return Arm(
        name=name,
        loss=Interval(**named(bootstrap_mean(scores.loss, _BOOTSTRAP_SEED))),
        accuracy=Interval(**named(bootstrap_mean(answered, _BOOTSTRAP_SEED))) if answered else None,
        against_random=difference,
        good_share=None if good is None or not ids else sum(row_id in good for row_id in ids) / len(ids),
        rows=facts.get("rows"),
        tokens=facts.get("tokens"),
        steps=facts.get("steps"),
    )


def _choice(context: Context, number: int) -> Choice:
    prefix = Rounds.prefix(number)
    facts = context.storage.read_json(f"{prefix}/aligned.json")
    selected = context.storage.read_json(f"{prefix}/selected.json")
    pool_sources = source_counts(context.pool)
    sources: tuple[SourceShare, ...] = ()
    if pool_sources:
        picked = chosen_sources(context.storage, f"{prefix}/selected.parquet")
        sources = tuple(
            SourceShare(source=source, pool=count, chosen=picked.get(source, 0))
            for source, count in sorted(pool_sources.items(), key=lambda entry: (-entry[1], entry[0]))
        )
    tokens = selected.get("tokens")
    featurised = f"{prefix}/featurised.json"
    mean_pool, cascade = None, None
    if context.storage.exists(featurised):
        record = context.storage.read_json(featurised)
        mean_pool = mean_tokens(Features.of(context.site.storage, record["whole"]).store)
        cascade = record["cascade"]
    return Choice(
        sources=sources,
        vendi=facts.get("vendi_picks"),
        vendi_target=facts.get("vendi_target"),
        tokens_mean=None if tokens is None else tokens / selected["rows"],
        tokens_mean_pool=mean_pool,
        cascade=None if cascade is None else _cascade(cascade),
    )


def _cascade(facts: Mapping[str, Any]) -> Cascade:
    recall = None if facts["recall"] is None else Recall(**facts["recall"])
    return Cascade(representation=facts["representation"], kept=facts["kept"], recall=recall)


def mean_tokens(store: UnitStore) -> float:
    """Mean tokens of a row that has features."""
    commits = store.commits().values()
    return sum(int(c.facts["tokens"]) for c in commits) / max(1, sum(c.rows for c in commits))


def source_counts(pool: Pool) -> dict[str, int]:
    """Usable rows of the pool by source; empty where it has no sources."""
    return in_task(_source_counts, pool.rows, pool.units)


def _source_counts(rows: PoolRows, units: Sequence[int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for table in rows.tables(units):
        if "source" in table.column_names:
            for source, count in value_counts(table["source"]).items():
                counts[source] = counts.get(source, 0) + count
    return counts


def _progress(context: Context, number: int) -> Progress:
    facts = context.record(number, "evaluated")
    best = dict(facts["against_best"])
    return Progress(
        round=number,
        loss=facts["loss"],
        best=best.pop("round"),
        against_untrained=Interval(**facts["against_untrained"]),
        against_best=Interval(**best),
        harmful=facts["harmful"],
        rolled_back=facts["rolled_back"],
    )


def _written(context: Context) -> list[tuple[int, dict[str, Any]]]:
    """Records of what a generator wrote, by round: one more than were played where it left nothing to choose from."""
    numbers = range(1, context.config.rounds + 2)
    if context.config.generation is None:
        return []
    return [(n, context.record(n, "generated")) for n in numbers if context.rounds.states(n, ("generated",))]


def _generated(context: Context) -> list[GeneratedRound]:
    names = ("requests", "answered", "prompt_tokens", "completion_tokens", "samples", "kept")
    return [GeneratedRound(round=n, **{name: facts[name] for name in names}) for n, facts in _written(context)]


def _path(context: Context, number: int) -> list[PathPoint]:
    facts = context.storage.read_json(f"{Rounds.prefix(number)}/aligned.json")
    tried = {(one["lambda"], one["r"]): one["loss"] for one in facts.get("trials", {}).get("tried", [])}
    return [
        PathPoint(
            round=number,
            lam=point["lam"],
            r=point["r"],
            transport_cost=point["validate_cost"],
            vendi=point.get("vendi"),
            validate_loss=tried.get((point["lam"], point["r"])),
            chosen=point["lam"] == facts["lambda"] and point["r"] == facts["r"],
        )
        for point in facts.get("path", [])
        if point["validate_cost"] is not None and point["r"] is not None
    ]


def _certificates(context: Context, number: int) -> list[Certificate]:
    facts = context.storage.read_json(f"{Rounds.prefix(number)}/aligned.json")
    if "certificate" not in facts:
        return []
    certificate, spread = facts["certificate"], facts["cost_std"]
    bounds = {"objective of the picks": certificate["picked_excess"], "objective of the weights": certificate["gap"]}
    return [
        Certificate(
            name=f"round {number}: {what} above the best possible, at most, in spreads of the cost",
            value=float(excess / spread),
            bound=1.0,
            holds=bool(np.isfinite(excess) and excess <= spread),
        )
        for what, excess in bounds.items()
    ]


def _trace(context: Context, number: int) -> list[TraceStep]:
    """Some ten steps of a round's descent, the first and the last among them."""
    facts = context.storage.read_json(f"{Rounds.prefix(number)}/aligned.json")
    steps = [step for step in facts.get("trace", []) if step["gap"] is not None]
    stride = max(1, -(-(len(steps) - 1) // _TRACE_LINES))
    shown = [step for place, step in enumerate(steps) if place % stride == 0 or place == len(steps) - 1]
    return [TraceStep(round=number, **step) for step in shown]


def quarantine_counts(context: Context, target: Target) -> dict[str, int]:
    """Rows set aside or cut short, by reason: in reading, features of the first round, generation, and target files."""
    counts: dict[str, int] = {}
    whole = _features(context).get("whole")
    if whole is not None:
        truncated = sum(int(commit.facts["truncated"]) for commit in whole.store.commits().values())
        if truncated:
            counts[f"truncated to {context.config.features.max_tokens} tokens (kept)"] = truncated
    storage, quarantines = context.site.storage, _quarantines(context, target)
    counts |= reason_counts(storage, quarantines[""])
    for _, facts in _written(context):
        for reason, count in facts["reasons"].items():
            counts[_GENERATED + reason] = counts.get(_GENERATED + reason, 0) + count
    of_target = reason_counts(storage, quarantines[_TARGET])
    return counts | {_TARGET + reason: count for reason, count in of_target.items()}


def _quarantines(context: Context, target: Target) -> dict[str, list[str]]:
    """Tables of rows set aside, by what is put before their reasons; what was generated lies in the run directory."""
    storage = context.site.storage
    features = _features(context)
    names = dict.fromkeys([one.raw for one in features.values()] + [one.fingerprint for one in features.values()])
    prefixes = [f"quarantine/pool-{context.pool.fingerprint}", *(f"quarantine/features-{name}" for name in names)]
    written = [f"quarantine/generated-{facts['name']}" for _, facts in _written(context)]
    splits = (context.align, context.validate, target)
    return {
        "": [key for prefix in prefixes for key in storage.keys(prefix)],
        _GENERATED: [key for prefix in written for key in context.storage.keys(prefix)],
        _TARGET: sorted({split.quarantine for split in splits if split.quarantine is not None}),
    }


def _set_aside(context: Context, target: Target) -> tuple[SetAside, ...]:
    """Some of these rows."""
    quarantines = _quarantines(context, target)
    generated = quarantines.pop(_GENERATED)
    rows = set_aside_examples(context.site.storage, quarantines)
    return (*rows, *set_aside_examples(context.storage, {_GENERATED: generated})) if generated else rows


def _features(context: Context) -> dict[str, Features]:
    """Features of the pool in the first round, where it has any."""
    featurised = f"{Rounds.prefix(1)}/featurised.json"
    if not context.storage.exists(featurised):
        return {}
    record = context.storage.read_json(featurised)
    return {name: Features.of(context.site.storage, record[name]) for name in ("whole", POOL)}


def _train_seconds(context: Context, trained: Sequence[tuple[int, str]]) -> dict[str, float]:
    """Seconds of the loop of each training, by the name of its model."""
    named = {"adapter": ("round", "trained"), "control": ("random", "control_trained")}
    known = [(number, *named[kind]) for number, kind in trained]
    return {f"{shown} {number}": float(context.record(number, state)["seconds"]) for number, shown, state in known}


def _forecast(context: Context) -> Forecast | None:
    """What was predicted of this config, or None. It is advice: one that cannot be read ends no run."""
    if not context.storage.exists(PLAN):
        return None
    try:
        found = Forecast.from_json(context.storage.read_json(PLAN))
    except (StorageError, TypeError, ValueError) as error:
        context.site.events.display.note(f"{PLAN} is left out of the report: {error}")
        return None
    stored = yaml.safe_load(context.storage.read(CONFIG))
    if found.config != identity_of(stored):
        context.site.events.display.note(f"{PLAN} is left out of the report: it is of another config")
        return None
    return found


def _manifest(storage: Storage) -> Manifest:
    found = storage.read_json(MANIFEST)
    environment = {name: value for name, value in found["environment"].items() if name != "versions"}
    return Manifest(identity=_texts(found["identity"]), environment=_texts(environment))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """What is no text as JSON; what is not there is left out."""
    known = {name: value for name, value in values.items() if value is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}


def timings(storage: Storage) -> dict[str, float]:
    """Seconds of each stage, added up over all processes that worked on the run."""
    totals: dict[str, float] = {}
    for event in logged(storage):
        if event["event"] == "stage":
            totals[event["stage"]] = totals.get(event["stage"], 0.0) + event["seconds"]
    return {name: round(seconds, 2) for name, seconds in totals.items()}
