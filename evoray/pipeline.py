"""The whole flow, readable top to bottom: run, and each of its stages on its own.

`run` plays rounds until the config's number is reached. Every step leaves a record when its work is done, so
that the same call again goes on after the last one, whatever ended it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoray.config import (
    ClusterConfig,
    EvaluationConfig,
    FeatureConfig,
    LoraConfig,
    PoolConfig,
    RunConfig,
    SelectionConfig,
    TrainingConfig,
    check_metric,
    check_selector,
)
from evoray.engine.choose import Choice, check_picks, choose, picks_table, write_selected
from evoray.engine.events import Display, Events
from evoray.engine.featurise import featurise
from evoray.engine.goals import Aim, external_aim, gradient_aim
from evoray.engine.journal import Notebook
from evoray.engine.labels import check_labels
from evoray.engine.lock import run_lock
from evoray.engine.pools import read_pool
from evoray.engine.potentials import POTENTIALS, write_potentials
from evoray.engine.proxy import Checkpoint, cheap_proxy, check_alone, identify_model, ready_proxy
from evoray.engine.round import STATES, Context, evaluate_round, play_round
from evoray.engine.rundir import CONFIG, SELECTED, Rounds, check_manifest, existing, open_run, start_anew
from evoray.engine.session import session
from evoray.engine.shards import PoolTiles
from evoray.engine.site import Site
from evoray.engine.stages import open_target
from evoray.engine.stages import score as score_rows
from evoray.engine.summary import best_round, keep_best, summarise_run
from evoray.engine.trainer import TrainJob
from evoray.engine.trainer import train as train_job
from evoray.engine.unseen import Scored, Unseen, score_unseen
from evoray.errors import ConfigError
from evoray.evaluation.intervals import summarise
from evoray.models.folder import Folder
from evoray.records import Score
from evoray.report.markdown import render
from evoray.report.summary import RunSummary
from evoray.storage import Storage

SUMMARY, REPORT = "summary.json", "report.md"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    out: str  # run directory or URI
    best: int  # round whose model is in `best/`; 0: no round beat the untrained model
    summary: RunSummary


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A written selection."""

    path: str  # of selected.parquet
    ids: tuple[str, ...]  # best first
    facts: Mapping[str, Any]  # lambda, r, certificate, Vendi scores ...


@dataclass(frozen=True, kw_only=True)
class Featurised:
    """Features of a pool in a feature store."""

    path: str  # what `--features` takes
    rows: int
    quarantined: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained adapter."""

    path: str  # adapter directory
    facts: Mapping[str, Any]  # rows, steps, tokens, first and last loss


def run(
    config: RunConfig, *, display: Display | None = None, anew: bool = False, command: str = "evoray run"
) -> RunResult:
    """Run the whole loop, or go on where it was interrupted.

    Raises UserError's children for wrong input, StageError where a stage cannot finish.
    """
    check_metric(config.features, config.selection)
    storage = Storage(config.out)
    with run_lock(storage):
        if anew:
            start_anew(storage)
        open_run(storage, config)
        with session(config.cluster) as workers:
            store = storage if config.store is None else Storage(config.store)
            site = Site(storage=store, session=workers, events=Events(storage, display))
            context = _prepare(config, storage, site)
            untrained = context.rounds.step(0, "evaluated", lambda: evaluate_round(context, 0, "adapter"))
            for number in range(1, config.rounds + 1):
                play_round(context, number)
            best = best_round(context, untrained)
            keep_best(context, best)
            summary = summarise_run(context, best, command)
            storage.write_json(SUMMARY, summary.to_json(), sort_keys=False)  # stages keep their order
            storage.write(REPORT, render(summary).encode())
    return RunResult(out=storage.uri, best=best, summary=summary)


def _prepare(config: RunConfig, storage: Storage, site: Site) -> Context:
    """Read pool and target, pin the identity of all inputs, warm the proxy up."""
    units = config.reading.unit_rows
    if config.labels is not None:
        check_labels(config.labels)
    listed = config.evaluation.list_options
    identity = identify_model(config.model, site.events)
    proxied = config.selection.selector == "evoselect"
    same = config.proxy_model == config.model
    proxy_identity = identity if same or not proxied else identify_model(config.proxy_model, site.events)
    align = open_target(config.target, "align", config.seed, units, site, listed)
    validate = open_target(config.target, "validate", config.seed, units, site, listed)
    pool = read_pool(config.pool, config.reading, site)
    if config.selection.selector != "all":
        check_picks(config.selection.k, config.rounds, pool.usable)
    cheap = cheap_proxy(config.model, config.features, site) if proxied else None
    ready = [Folder.at(path).fingerprint() for path in config.features.adapters]
    check_manifest(
        storage,
        {
            "pool": pool.fingerprint,
            "align": align.source.identity,
            "validate": validate.source.identity,
            "model": identity,
            "proxy": proxy_identity,
            "adapters": ready,
            "cascade": None if cheap is None else cheap.identity,
            "seed": config.seed,
        },
    )
    proxy = None
    if proxied:
        proxy = ready_proxy(
            config.proxy_model, proxy_identity, config.features, config.lora, config.feature_seed, pool, site
        )
    return Context(
        config=config,
        storage=storage,
        site=site,
        pool=pool,
        align=align,
        validate=validate,
        model_identity=identity,
        proxy=proxy,
        cheap=cheap,
    )


def featurize(
    pool: str | Sequence[str],
    model: str,
    out: str,
    *,
    adapter: str | None = None,
    features: FeatureConfig | None = None,
    lora: LoraConfig | None = None,
    reading: PoolConfig | None = None,
    seed: int = 0,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Featurised:
    """Features of a pool, in a feature store below `out`; resumable.

    Raises ConfigError for what needs pool and target together: centring, `less`, a cascade, and moments to estimate.
    """
    settings = _with_adapter(features, adapter)
    check_alone(settings)
    model, seed = settings.model or model, seed if settings.seed is None else settings.seed
    storage = Storage(out)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        identity = identify_model(model, site.events)
        read = read_pool(pool, reading or PoolConfig(), site)
        proxy = ready_proxy(model, identity, settings, lora or LoraConfig(), seed, read, site)
        found = featurise({"pool": read.source}, proxy, settings, seed, site)["pool"]
    commits = found.store.commits().values()
    return Featurised(
        path=storage.location(found.store.prefix),
        rows=sum(commit.rows for commit in commits),
        quarantined=read.quarantined + sum(int(commit.facts["quarantined"]) for commit in commits),
    )


def select(
    pool: str | Sequence[str] | None,
    target: str | None,
    model: str | None,
    k: int,
    out: str,
    *,
    selector: str = "evoselect",
    adapter: str | None = None,
    features_path: str | None = None,
    target_features_path: str | None = None,
    features: FeatureConfig | None = None,
    lora: LoraConfig | None = None,
    selection: SelectionConfig | None = None,
    reading: PoolConfig | None = None,
    seed: int = 0,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Selection:
    """Choose K rows of a pool for a target; writes `selected.parquet`, `potentials.parquet` and `selection.json`.

    With `features_path` (a feature store or any Parquet file with columns id and feature) no model is needed.
    """
    check_selector(selector)
    settings = (selection or SelectionConfig()).model_copy(update={"k": k, "selector": selector})
    gradients = _with_adapter(features, adapter)
    check_metric(gradients, settings)
    model, reading = gradients.model or model, reading or PoolConfig()
    storage = Storage(out)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        needs_model = features_path is None and selector == "evoselect"
        identity = identify_model(_needed(model, "--model"), site.events) if needs_model else ""
        read = None if pool is None else read_pool(pool, reading, site)
        if read is not None and features_path is None and selector != "all":
            check_picks(k, 1, read.usable)
        if features_path is not None:
            aims = selector == "evoselect"
            target_features = _needed(target_features_path, "--target-features") if aims else None
            aim = external_aim(features_path, target_features, seed)
        elif selector in ("random", "all"):
            aim = Aim(source=PoolTiles(rows=_needed(read, "--pool").rows, units=_needed(read, "--pool").units))
        else:
            aim = gradient_aim(
                _needed(read, "--pool"), _needed(target, "--target"), _needed(model, "--model"),
                identity, k, gradients, lora or LoraConfig(), seed, site, reading.max_chars,
            )  # fmt: skip
        with site.events.stage("align and select", 1) as stage:
            notebook = Notebook(storage=storage, prefix="solver")
            choice = choose(aim.source, aim.goal, settings, seed, workers, stage.share, notebook=notebook)
        units = () if read is None else read.units
        rows = None if read is None else read.rows
        write_selected(storage, SELECTED, picks_table(choice.picks), aim.target_ids, 1, rows, units)
        write_potentials(storage, POTENTIALS, aim.target_ids, aim.goal, choice.facts, aim.recipe)
        storage.write_json("selection.json", dict(choice.facts))
        notebook.clear()
    return _selection(storage, choice)


def score(
    potentials: str,
    pool: str | Sequence[str] | None,
    out: str,
    *,
    features_path: str | None = None,
    reading: PoolConfig | None = None,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Scored:
    """Score unseen candidates by the potentials of a selection or a run, without a solve; writes `scores.parquet`.

    `potentials`: the file, the folder of a selection, or a run directory. The pool is featurised as it was there; with
    `features_path` (a feature store or any Parquet file with columns id and feature) no pool and no model is needed.
    """
    unseen = Unseen.of(potentials, pool, features_path, reading or PoolConfig())
    storage = Storage(out)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        return score_unseen(unseen, Site(storage=storage, session=workers, events=Events(storage, display)))


def _with_adapter(features: FeatureConfig | None, adapter: str | None) -> FeatureConfig:
    settings = features or FeatureConfig()
    return settings if adapter is None else settings.model_copy(update={"adapter": adapter, "adapter_weights": None})


def _selection(storage: Storage, choice: Choice) -> Selection:
    ids = tuple(pick.id for pick in choice.picks)
    return Selection(path=storage.location(SELECTED), ids=ids, facts=choice.facts)


def _needed(value: Any, flag: str) -> Any:
    if value is None:
        raise ConfigError(
            f"no {flag}",
            "--pool, --target and --model, or --features and --target-features that were computed before",
            f"add {flag}",
        )
    return value


def train(
    data: str | Sequence[str],
    model: str,
    out: str,
    *,
    adapter: str | None = None,
    training: TrainingConfig | None = None,
    lora: LoraConfig | None = None,
    reading: PoolConfig | None = None,
    max_tokens: int = 512,
    steps: int | None = None,
    seed: int = 0,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Trained:
    """Fine-tune on all rows of `data`; the adapter goes to `out/adapter`."""
    storage = Storage(out)
    folder = Folder(storage=storage, prefix="adapter")
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        identify_model(model, site.events)
        settings = reading or PoolConfig()
        read_pool(data, settings, site)  # refuses unusable data before workers start
        job = TrainJob(
            data=data if isinstance(data, str) else tuple(data),
            model=model,
            start=None if adapter is None else Folder.at(adapter),
            out=folder,
            lora=lora or LoraConfig(),
            config=training or TrainingConfig(),
            max_tokens=max_tokens,
            max_chars=settings.max_chars,
            steps=steps,
            seed=seed,
            threads=workers.threads,
        )
        with site.events.stage("train", 0) as stage:
            facts = train_job(job, workers, stage)
    return Trained(path=storage.location(folder.prefix), facts=facts)


def evaluate(
    model: str,
    target: str,
    out: str,
    *,
    adapter: str | None = None,
    split: str = "validate",
    evaluation: EvaluationConfig | None = None,
    max_tokens: int = 512,
    seed: int = 0,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Score:
    """Loss and accuracy of a model (with an adapter) on a split of a target, with 95% intervals.

    `out`: where scores of single rows are kept; equal requests are answered from there.
    """
    storage = Storage(out)
    settings = evaluation or EvaluationConfig()
    with session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        rows = open_target(target, split, seed, 64, site, settings.list_options)  # type: ignore[arg-type]
        folder = None if adapter is None else Folder.at(adapter)
        checkpoint = Checkpoint.of(model, identify_model(model, site.events), folder)
        (scores,) = score_rows({model: checkpoint}, rows, settings, max_tokens, site).values()
    return summarise(scores.loss, scores.correct)


def status(out: str) -> Mapping[str, Any]:
    """What a run directory holds: the states done in each round, the holder of its lock, the verdict's file."""
    storage = existing(out)
    if not storage.exists(CONFIG):
        raise ConfigError(f"{storage.uri} without {CONFIG}", "the directory of a run", "check the path")
    rounds = sorted({key.split("/")[1] for key in storage.keys("rounds")})
    records = Rounds(storage, Events(storage))
    return {
        "out": storage.uri,
        "rounds": {int(name): records.states(int(name), STATES) for name in rounds},
        "finished": storage.exists(SUMMARY),
        "lock": storage.read_json("lock.json") if storage.exists("lock.json") else None,
    }


def read_report(out: str) -> str:
    """The report of a finished run, as Markdown. Raises ConfigError where it is not finished."""
    storage = existing(out)
    if not storage.exists(SUMMARY):
        raise ConfigError(
            f"{storage.uri} without {SUMMARY}", "the directory of a finished run", "run `evoray run` again to finish it"
        )
    return render(RunSummary.from_json(storage.read_json(SUMMARY)))
