"""Models by name: what they are known by, and the proxy whose gradients are features."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evoray.config import FeatureConfig, LoraConfig
from evoray.engine.events import Events, Stage
from evoray.engine.pools import Pool
from evoray.engine.progress import counted
from evoray.engine.remote import in_process
from evoray.engine.session import asked_and_free
from evoray.engine.site import Site, fingerprint
from evoray.engine.workers import PoolRows
from evoray.errors import ConfigError
from evoray.models.folder import MOMENTS_FILE, Folder
from evoray.models.reference import Model, identified
from evoray.storage import scratch_folder

#: References to models of a hub, and which commit each stands for in a run.
HUB_MODELS = "hub-models"


def identify_model(reference: str, events: Events) -> Model:
    """The weights that a reference names; converts the embedded model first. Raises ModelError.

    Whoever loads them is given the name that is returned: a hub may have others under the reference tomorrow. In the
    same run directory a reference stays with the commit that it named first.
    """
    storage, key = events.storage, f"{HUB_MODELS}/{fingerprint(reference=reference)}.json"
    known = storage.read_json(key)["name"] if storage.exists(key) else reference
    with events.stage(f"prepare model {reference}", 1) as stage:
        model = in_process(identified, known)
        stage.advance()
    if model.name != known:
        storage.create_json(key, {"reference": reference, "name": model.name})
    return model


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with an adapter (or none), and the fingerprint of their weights."""

    model: str
    adapter: Folder | None
    identity: str

    @classmethod
    def of(cls, model: str, model_identity: str, adapter: Folder | None = None) -> Checkpoint:
        """Read the adapter's weights for their fingerprint. Raises ModelError for one of another model."""
        if adapter is not None:
            adapter.check_base(model, model_identity)
        parts = (
            {"model": model_identity}
            if adapter is None
            else {"model": model_identity, "adapter": adapter.fingerprint()}
        )
        return cls(model=model, adapter=adapter, identity=fingerprint(**parts))


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The model that features are taken from, at one or more checkpoints of its adapter (none: as it is)."""

    model: str
    adapters: tuple[Folder, ...]
    weights: tuple[float, ...]  # what each checkpoint counts
    identity: str

    @classmethod
    def of(
        cls, model: str, model_identity: str, adapters: Sequence[Folder] = (), weights: Sequence[float] | None = None
    ) -> Proxy:
        """Read the adapters' weights for the fingerprint."""
        counts = tuple(weights or [1.0] * len(adapters))
        prints = [adapter.fingerprint() for adapter in adapters]
        identity = fingerprint(model=model_identity, adapters=prints, weights=counts)
        return cls(model=model, adapters=tuple(adapters), weights=counts, identity=identity)


def ready_proxy(
    model: str,
    identity: str,
    features: FeatureConfig,
    lora: LoraConfig,
    seed: int,
    pool: Pool,
    site: Site,
) -> Proxy:
    """The model that features are taken from: with the adapters of the config, or with one warmed up on the pool."""
    features = site.session.settled(features)
    if not features.adapters and features.uses_lora:
        return warm_up_adapter(pool, model, identity, lora, features, seed, site)
    adapters = [Folder.at(path) for path in features.adapters]
    for adapter in adapters:
        adapter.check_base(model, identity)
    if features.uses_lora and features.preconditioning == "adam":
        adapters = [with_moments(adapter, pool, model, identity, features, seed, site) for adapter in adapters]
    return Proxy.of(model, identity, adapters, features.adapter_weights)


def check_alone(features: FeatureConfig) -> None:
    """Raise ConfigError for features of one source that would not lie in one space with those of another."""
    bare = [path for path in features.adapters if not Folder.at(path).has(MOMENTS_FILE)]
    reasons = {
        "features.centred": features.centred,
        "features.preconditioning: less": features.uses_lora and features.preconditioning == "less",
        "features.cascade": features.cascade is not None,
        f"an adapter without {MOMENTS_FILE}": bool(bare) and features.uses_lora and features.preconditioning == "adam",
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if found:
        raise ConfigError(
            f"{found[0]}, and features of one file alone",
            "features that do not depend on the pool: others, made apart, could not be compared with them",
            "use `evoray select --pool --target` or `evoray run`, or leave it out",
        )


def with_moments(
    adapter: Folder, pool: Pool, model: str, model_identity: str, config: FeatureConfig, seed: int, site: Site
) -> Folder:
    """The adapter itself where it has its optimiser's moments; else a copy with moments estimated on pool rows."""
    if adapter.has(MOMENTS_FILE):
        return adapter
    identity = fingerprint(
        pool=pool.fingerprint,
        model=model_identity,
        adapter=adapter.fingerprint(),
        rows=config.warmup.rows,
        batch_size=config.warmup.batch_size,
        max_tokens=config.max_tokens,
        precision=config.precision,
        seed=seed,
    )
    copy = Folder(storage=site.storage, prefix=f"warmup/{identity}/estimated")
    site.events.display.note(f"{adapter} has no {MOMENTS_FILE}: estimated on {config.warmup.rows} rows of the pool")
    done = f"warmup/{identity}/done.json"
    with site.events.stage("estimate moments", -(-config.warmup.rows // config.warmup.batch_size)) as stage:
        if not site.storage.exists(done):
            _counted(_estimate, (pool.rows, pool.units, model, adapter, config, seed, copy), config, stage, site)
            site.storage.write_json(done, {"of": str(adapter)})
    return copy


def _estimate(
    rows: PoolRows,
    units: Sequence[int],
    model: str,
    adapter: Folder,
    config: FeatureConfig,
    seed: int,
    copy: Folder,
    counter: Any,
) -> None:
    import torch

    from evoray.features.estimate import estimate_moments
    from evoray.models.chat import encode
    from evoray.models.loading import autocast_dtype, load_for_inference, load_tokenizer
    from evoray.models.moments import save_moments

    torch.set_num_threads(config.warmup.threads)
    tokenizer, precision, source = load_tokenizer(model), autocast_dtype(config.precision), adapter.fetch()
    chosen = encode(_random_rows(rows, units, config.warmup.rows, seed), tokenizer, config.max_tokens)
    moments = estimate_moments(
        load_for_inference(model, source, precision),
        [sample for sample in chosen if any(sample.supervised)],
        pad_id=int(tokenizer.pad_token_id),
        batch_size=config.warmup.batch_size,
        batch_tokens=config.pass_tokens,
        precision=precision,
        progress=counter.reach.remote,
    )
    with scratch_folder() as scratch:
        shutil.copytree(source, scratch, dirs_exist_ok=True)
        save_moments(scratch, moments)
        copy.upload(scratch)


def cheap_proxy(learner: str, features: FeatureConfig, site: Site) -> Proxy | None:
    """The model of a cascade's first pass, as it is; None where there is no cascade."""
    if features.cascade is None:
        return None
    return Proxy.of(*identify_model(features.cascade_model(learner), site.events))


def warm_up_adapter(
    pool: Pool,
    model: str,
    model_identity: str,
    lora: LoraConfig,
    config: FeatureConfig,
    seed: int,
    site: Site,
) -> Proxy:
    """The proxy after a short fine-tune of a fresh adapter on random pool rows; made once for equal inputs."""
    identity = fingerprint(
        pool=pool.fingerprint,
        model=model_identity,
        lora=lora.model_dump(),
        warmup=config.warmup.model_dump(),
        max_tokens=config.max_tokens,
        precision=config.precision,
        seed=seed,
    )
    storage, prefix = site.storage, f"warmup/{identity}"
    folders = [
        Folder(storage=storage, prefix=f"{prefix}/checkpoint-{number}")
        for number in range(1, config.warmup.checkpoints + 1)
    ]
    steps = -(-config.warmup.rows // config.warmup.batch_size) * config.warmup.epochs
    with site.events.stage("warm up proxy", steps) as stage:
        if storage.exists(f"{prefix}/done.json"):
            stage.advance(steps)
        else:
            arguments = (pool.rows, pool.units, model, lora, config, seed, folders)
            storage.write_json(f"{prefix}/done.json", _counted(_warm_up, arguments, config, stage, site))
    weights = storage.read_json(f"{prefix}/done.json")["weights"]
    return Proxy.of(model, model_identity, folders, weights)


def _counted(
    function: Callable[..., Any], arguments: Sequence[Any], config: FeatureConfig, stage: Stage, site: Site
) -> Any:
    """The result of a function that takes a counter last, in a process of its own."""
    cpus, gpus = config.warmup.threads, site.session.gpus
    return counted(
        lambda counter: in_process(function, *arguments, counter, cpus=cpus, gpus=gpus),
        stage,
        site.session.stall,
        lambda: f"no process for it: {asked_and_free({'num_cpus': cpus, 'num_gpus': gpus})}",
    )


def _warm_up(
    rows: PoolRows,
    units: Sequence[int],
    model: str,
    lora: LoraConfig,
    config: FeatureConfig,
    seed: int,
    folders: Sequence[Folder],
    counter: Any,
) -> dict[str, Any]:
    import torch

    from evoray.models.loading import autocast_dtype, load_model, load_tokenizer, new_adapter, to_device
    from evoray.training.warmup import warm_up

    torch.set_num_threads(config.warmup.threads)
    chosen = _random_rows(rows, units, config.warmup.rows, seed)
    with scratch_folder() as scratch:
        done = warm_up(
            to_device(new_adapter(load_model(model), lora, seed)),
            load_tokenizer(model),
            chosen,
            scratch,
            config.warmup,
            seed=seed,
            max_tokens=config.max_tokens,
            batch_tokens=config.pass_tokens,
            precision=autocast_dtype(config.precision),
            progress=counter.reach.remote,
        )
        for number, folder in enumerate(folders, 1):
            folder.upload(scratch / f"checkpoint-{number}")
    return asdict(done)


def _random_rows(rows: PoolRows, units: Sequence[int], count: int, seed: int) -> list[Any]:
    """`count` rows of the pool, first in the random order of the seed: the same for any unit size."""
    from evoray.pool.rows import rows_from_table
    from evoray.selection.picks import random_key

    best: list[tuple[int, str, Any]] = []
    for table in rows.tables(units):
        best += [(random_key(row.id, seed), row.id, row) for row in rows_from_table(table)]
        best = sorted(best, key=lambda entry: entry[:2])[:count]
    return [row for _, _, row in best]
