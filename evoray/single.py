"""Each stage of the flow on its own: featurise, select, score, train, evaluate.

All write below `out` and go on where the same call was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evoray.budget import in_rows
from evoray.config import (
    ClusterConfig,
    EvaluationConfig,
    FeatureConfig,
    LoraConfig,
    PoolConfig,
    SelectionConfig,
    TrainingConfig,
    check_metric,
)
from evoray.engine.choose import check_picks, choose
from evoray.engine.events import Display, Events
from evoray.engine.featurise import featurise
from evoray.engine.frames import as_path, chosen_rows, is_paths
from evoray.engine.goals import Aim, check_cascade, external_aim, featured_aim
from evoray.engine.journal import Notebook
from evoray.engine.lock import run_lock
from evoray.engine.pools import read_pool
from evoray.engine.potentials import POTENTIALS, write_potentials
from evoray.engine.proxy import Checkpoint, check_alone, identify_model, ready_proxy
from evoray.engine.rundir import SELECTED
from evoray.engine.selected import picks_table, write_selected
from evoray.engine.selectors import is_featured, needs_of, with_representation
from evoray.engine.session import session
from evoray.engine.shards import PoolTiles
from evoray.engine.site import Site
from evoray.engine.stages import Scores, open_target
from evoray.engine.stages import score as score_rows
from evoray.engine.trainer import TrainJob
from evoray.engine.trainer import train as train_jobs
from evoray.engine.unseen import Scored, Unseen, score_unseen
from evoray.errors import ConfigError
from evoray.evaluation.intervals import compare_scores, summarise
from evoray.evaluation.scoring import Scoring
from evoray.models.folder import Folder
from evoray.records import Comparison, Score
from evoray.report.shown import fields_view, shown
from evoray.report.views import comparison_view, score_view
from evoray.selection.selector import Choice
from evoray.storage import Storage

# These records know nothing of reports: they learn to show themselves where they are handed out.
shown(score_view)(Score)
shown(comparison_view)(Comparison)


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class Selection:
    """A written selection."""

    path: str  # of selected.parquet
    ids: tuple[str, ...]  # best first
    facts: Mapping[str, Any]  # lambda, r, certificate, Vendi scores ...
    rows: Any = field(default=None, repr=False, compare=False)  # of a pool in memory: the chosen ones, of its kind


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class Featurised:
    """Features of a pool in a feature store."""

    path: str  # what `--features` takes
    rows: int
    quarantined: int


@shown(fields_view)
@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained adapter."""

    path: str  # adapter directory
    facts: Mapping[str, Any]  # rows, steps, tokens, first and last loss


def featurize(
    pool: Any,
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
    """Features of a pool, in a feature store below `out`; resumable. pool: as of `select`.

    Raises ConfigError for what needs pool and target together: centring, `less`, a cascade, and moments to estimate.
    """
    settings = _with_adapter(features, adapter).taken_for("gradient", only=False)
    check_alone(settings)
    model, seed = settings.model or model, seed if settings.seed is None else settings.seed
    storage = Storage(out)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        model, identity = identify_model(model, site.events)
        read = read_pool(as_path(pool, out), reading or PoolConfig(), site)
        proxy = ready_proxy(model, identity, settings, lora or LoraConfig(), seed, read, site)
        found = featurise({"pool": read.source}, proxy, settings, seed, site)["pool"]
    commits = found.store.commits().values()
    return Featurised(
        path=storage.location(found.store.prefix),
        rows=sum(commit.rows for commit in commits),
        quarantined=read.quarantined + sum(int(commit.facts["quarantined"]) for commit in commits),
    )


def select(
    pool: Any,
    target: str | None,
    model: str | None,
    k: int | float | str,
    out: str,
    *,
    selector: str | None = None,
    options: Mapping[str, Any] | None = None,
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
    """Choose rows of a pool for a target; writes `selected.parquet`, `selection.json` and evoselect's potentials.

    pool: a file, folder, glob or several of them, or a table of pandas, Polars, Arrow, Hugging Face `datasets` or Ray
    Data: then `rows` of the result are the chosen ones, best first, as a table of the same library. k: rows, a share of
    the pool (0.2) or tokens ("100000tok"). selector: a name, or `package.module:Class` of your own; None: that of
    `selection`, which is evoselect by default. options: of the selector; those of evoselect are fields of `selection`.
    Nothing is trained here: `trials` has no part. With `features_path` (a feature store or any Parquet file with
    columns id and feature) no model is needed.
    """
    settings = _asked(selection, k=k, trials=1, selector=selector, options=options)
    needs, featured = needs_of(settings), is_featured(settings)
    taken = with_representation(_with_adapter(features, adapter), settings)
    check_metric(taken, settings)
    check_cascade(taken, needs, settings.k)
    reading, storage = reading or PoolConfig(), Storage(out)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        read = None if pool is None else read_pool(as_path(pool, out), reading, site)
        if read is not None and features_path is None:
            settings = _of_pool(settings, read.usable, taken)
        if features_path is not None:
            target_features = _needed(target_features_path, "--target-features") if needs.target else None
            aim = external_aim(features_path, target_features, seed, read)
        elif not featured:
            aim = Aim(source=PoolTiles(rows=_needed(read, "--pool").rows, units=_needed(read, "--pool").units))
        else:
            proxy, identity = identify_model(taken.proxy_model(_needed(model, "--model")), site.events)
            aim = featured_aim(
                _needed(read, "--pool"), _needed(target, "--target") if needs.target else None, proxy,
                identity, k, taken, lora or LoraConfig(), seed, site, reading.max_chars,
            )  # fmt: skip
        with site.events.stage("align and select", 1) as stage:
            notebook = Notebook(storage=storage, prefix="solver")
            choice = choose(aim.source, aim.goal, settings, seed, workers, stage.share, notebook=notebook)
        rows, units = (None, ()) if read is None else (read.rows, read.units)
        write_selected(storage, SELECTED, picks_table(choice.picks), aim.target_ids, 1, rows, units)
        write_potentials(storage, POTENTIALS, aim.target_ids, aim.goal, choice.facts, aim.recipe)
        storage.write_json("selection.json", dict(choice.facts))
        notebook.clear()
        return _selection(storage, choice, pool)


def _of_pool(settings: SelectionConfig, usable: int, taken: FeatureConfig) -> SelectionConfig:
    """The settings for a pool. What a cascade keeps is no longer the pool that a share is of. Raises SelectionError."""
    if settings.selector != "all":
        check_picks(settings.k, 1, usable)
    return settings if taken.cascade is None else settings.model_copy(update={"k": in_rows(settings.k, usable)})


def score(
    potentials: str,
    pool: Any,
    out: str,
    *,
    features_path: str | None = None,
    reading: PoolConfig | None = None,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Scored:
    """Score unseen candidates by the potentials of a selection or a run, without a solve; writes `scores.parquet`.

    `potentials`: the file, the folder of a selection, or a run directory. The pool, as of `select`, is featurised as it
    was there; with `features_path` (a feature store or any Parquet file with columns id and feature) no pool and no
    model is needed.
    """
    candidates = None if pool is None else as_path(pool, out)
    unseen = Unseen.of(potentials, candidates, features_path, reading or PoolConfig())
    storage = Storage(out)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        return score_unseen(unseen, Site(storage=storage, session=workers, events=Events(storage, display)))


def _with_adapter(features: FeatureConfig | None, adapter: str | None) -> FeatureConfig:
    settings = features or FeatureConfig()
    return settings if adapter is None else settings.model_copy(update={"adapter": adapter, "adapter_weights": None})


def _asked(selection: SelectionConfig | None, **values: Any) -> SelectionConfig:
    """The section with some values of its own; None: as it has them."""
    given = {name: value for name, value in values.items() if value is not None}
    return SelectionConfig.model_validate({**(selection or SelectionConfig()).model_dump(by_alias=True), **given})


def _selection(storage: Storage, choice: Choice, pool: Any) -> Selection:
    ids = tuple(pick.id for pick in choice.picks)
    rows = None if pool is None or is_paths(pool) else chosen_rows(pool, storage.read_table(SELECTED))
    return Selection(path=storage.location(SELECTED), ids=ids, facts=choice.facts, rows=rows)


def _needed(value: Any, flag: str) -> Any:
    if value is None:
        raise ConfigError(
            f"no {flag}",
            "--pool, --target and --model, or --features and --target-features that were computed before",
            f"add {flag}",
        )
    return value


def train(
    data: Any,
    model: str,
    out: str,
    *,
    adapter: str | None = None,
    target: str | None = None,
    training: TrainingConfig | None = None,
    lora: LoraConfig | None = None,
    reading: PoolConfig | None = None,
    max_tokens: int = 512,
    steps: int | None = None,
    seed: int = 0,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Trained:
    """Fine-tune on all rows of `data`; what was trained goes to `out/adapter` (of all weights: to `out/model`).

    data: as the pool of `select`.
    The same call again goes on from the last checkpoint. `target`: its validate rows are what early stopping looks at.
    """
    settings, reading = training or TrainingConfig(), reading or PoolConfig()
    storage = Storage(out)
    name = "model" if settings.weights == "full" else "adapter"
    start = None if adapter is None else Folder.at(adapter)
    with run_lock(storage), session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        model, identity = identify_model(model, site.events)
        if start is not None:
            start.check_base(model, identity)
        path = as_path(data, out)
        pool = read_pool(path, reading, site)  # refuses unusable data before workers start
        looks = settings.early_stop is not None and target is not None
        validate = open_target(_needed(target, "--target"), "validate", seed, 64, site).source if looks else None
        job = TrainJob(
            name=name,
            data=path,
            model=model,
            start=start,
            out=Folder(storage=storage, prefix=name),
            inputs={
                "data": pool.fingerprint,
                "model": identity,
                "start": None if start is None else start.fingerprint(),
                "validate": None if validate is None else validate.identity,
            },
            lora=lora or LoraConfig(),
            config=settings,
            max_tokens=max_tokens,
            max_chars=reading.max_chars,
            steps=steps,
            seed=seed,
            threads=workers.threads,
            validate=validate,
        )
        (facts,) = train_jobs([job], workers, site.events)
    return Trained(path=storage.location(name), facts=facts)


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
    (scores,) = _score([(model, adapter)], target, out, split, evaluation, max_tokens, seed, cluster, display)
    return summarise(scores.loss, scores.correct)


def evaluate_paired(
    target: str,
    model: str,
    out: str,
    *,
    adapter: str | None = None,
    against_model: str | None = None,
    against_adapter: str | None = None,
    split: str = "validate",
    evaluation: EvaluationConfig | None = None,
    max_tokens: int = 512,
    seed: int = 0,
    cluster: ClusterConfig | None = None,
    display: Display | None = None,
) -> Comparison:
    """What two models score on the same rows of a target, and how far apart they are: model - against, row by row.

    `against_model`: None is the same model, so that an adapter is compared with the model that it was trained on.
    `out`: as for `evaluate`. Raises ConfigError where both are one and the same.
    """
    both = [(model, adapter), (against_model or model, against_adapter)]
    if both[0] == both[1]:
        raise ConfigError(
            f"model {model} with {f'adapter {adapter}' if adapter else 'no adapter'} on both sides",
            "two models, or one with two adapters (or one and none)",
            "give --adapter, --against-adapter or --against-model",
        )
    scores, against = _score(both, target, out, split, evaluation, max_tokens, seed, cluster, display)
    return compare_scores(scores.loss, scores.correct, against.loss, against.correct)


def _score(
    models: Sequence[tuple[str, str | None]],
    target: str,
    out: str,
    split: str,
    evaluation: EvaluationConfig | None,
    max_tokens: int,
    seed: int,
    cluster: ClusterConfig | None,
    display: Display | None,
) -> list[Scores]:
    """Scores of models, each with its adapter or none, on one split."""
    storage, settings = Storage(out), evaluation or EvaluationConfig()
    Scoring.of(settings)  # what is wrong with it is said before anything starts
    folders = [None if adapter is None else Folder.at(adapter) for _, adapter in models]
    with session(cluster or ClusterConfig()) as workers:
        site = Site(storage=storage, session=workers, events=Events(storage, display))
        rows = open_target(target, split, seed, 64, site, settings.list_options)  # type: ignore[arg-type]
        names = {model: identify_model(model, site.events) for model in dict.fromkeys(model for model, _ in models)}
        checkpoints = {
            f"{model} with {adapter}" if adapter else model: Checkpoint.of(*names[model], folder)
            for (model, adapter), folder in zip(models, folders, strict=True)
        }
        return list(score_rows(checkpoints, rows, settings, max_tokens, site).values())
