"""Features of a pool and its targets, resumable by their own stores.

Everything is named by fingerprint. Rows and features stay with the workers and in storage.
"""

from __future__ import annotations

from collections.abc import Mapping

from evoray.config import FeatureConfig
from evoray.engine.centring import centred
from evoray.engine.proxy import Proxy
from evoray.engine.reuse import Known
from evoray.engine.site import Site, Source, fingerprint
from evoray.engine.stored import POOL, Features
from evoray.engine.units import Work, run_units
from evoray.engine.workers import FeatureJob
from evoray.storage import UnitStore

#: Config keys that say which model features are taken from, or what is made of them: no part of what they are.
_NOT_FEATURES = {
    *("warmup", "adapter", "adapter_weights", "model", "refresh", "seed"),
    *("centred", "cascade"),
}


def featurise(
    sources: Mapping[str, Source], proxy: Proxy, config: FeatureConfig, seed: int, site: Site
) -> dict[str, Features]:
    """Features of every unit of some sources, by name; only what is not known yet is computed.

    The source named `pool` holds candidates, all others hold rows of the target.
    """
    config = site.session.settled(config)
    found: dict[str, Features] = {}
    works: list[Work] = []
    for name, source in sources.items():
        settings = fingerprint(
            proxy=proxy.identity, config=config.model_dump(exclude=_NOT_FEATURES), candidates=name == POOL, seed=seed
        )
        identity = fingerprint(source=source.identity, settings=settings)
        store = UnitStore(site.storage, f"features/{identity}")
        found[name] = Features(fingerprint=identity, raw=identity, store=store, units=source.units)
        job = FeatureJob(
            source=source.rows, model=proxy.model, adapters=proxy.adapters, weights=proxy.weights, config=config,
            seed=seed, candidates=name == POOL, known=Known(store=store, settings=settings),
        )  # fmt: skip
        works.append(
            Work(
                stage="featurise", units=source.units, factory=job, store=store,
                quarantine=f"quarantine/features-{identity}", careful=job.careful(),
            )
        )  # fmt: skip
    names = {name: one.fingerprint for name, one in found.items()}
    title = f"featurise {', '.join(sources)}"
    with site.events.stage(title, sum(len(work.units) for work in works), fingerprints=names) as stage:
        run_units(works, site.session, stage)
    return centred(found, site) if config.centred else found
