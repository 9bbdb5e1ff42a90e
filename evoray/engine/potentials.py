"""The target's potentials beside a selection: Parquet, with all that unseen candidates need to be scored by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evoray.alignment.reduction import Array
from evoray.config import FeatureConfig
from evoray.engine.events import Events
from evoray.engine.proxy import Proxy, identify_model
from evoray.engine.rundir import files_of_rounds
from evoray.engine.shards import matrix_of
from evoray.errors import ConfigError, StorageError
from evoray.models.folder import Folder
from evoray.models.reference import EMBEDDED, EMBEDDED_ENCODER
from evoray.selection.selector import Goal, Matrix
from evoray.selection.weights import target_weights
from evoray.storage import Storage
from evoray.storage.backend import table_from_bytes

POTENTIALS = "potentials.parquet"
_METADATA = b"evoray"
_KINDS = {"id": pa.string(), "weight": pa.float64(), "g": pa.float64()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the features of a selection were taken, so that those of unseen candidates are taken in the same way."""

    model: str  # the proxy: hub id, absolute local directory, or an embedded one
    adapters: tuple[str, ...]  # paths or URIs
    weights: tuple[float, ...]  # what each adapter counts
    identity: str  # fingerprint of the proxy's weights
    config: FeatureConfig
    seed: int
    max_chars: int  # of one row, as the pool was read

    @classmethod
    def of(cls, proxy: Proxy, config: FeatureConfig, seed: int, max_chars: int) -> Recipe:
        """The recipe of features that a proxy gives."""
        named = proxy.model in (EMBEDDED, EMBEDDED_ENCODER) or not Path(proxy.model).is_dir()
        return cls(
            model=proxy.model if named else str(Path(proxy.model).absolute()),
            adapters=tuple(map(str, proxy.adapters)),
            weights=proxy.weights,
            identity=proxy.identity,
            config=config,
            seed=seed,
            max_chars=max_chars,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_json`. Raises TypeError, ValueError or ConfigError for anything else."""
        config = FeatureConfig.model_validate(value["config"])
        sequences = {name: tuple(value[name]) for name in ("adapters", "weights")}
        return cls(**{**value, **sequences, "config": config})

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "config": self.config.model_dump(mode="json")}

    def proxy(self, events: Events) -> Proxy:
        """The model and adapters that were recorded. Raises ModelError, or ConfigError where their weights changed."""
        model, identity = identify_model(self.model, events)
        proxy = Proxy.of(model, identity, [Folder.at(path) for path in self.adapters], self.weights)
        if proxy.identity != self.identity:
            raise ConfigError(
                f"{', '.join([self.model, *self.adapters])} with other weights than at the selection",
                "the proxy whose features the potentials were solved on",
                "restore its files, or give --features that were computed with it",
            )
        return proxy


@dataclass(frozen=True, kw_only=True)
class TargetPotentials:
    """A solve's end on the target's side: M rows with their weights, potentials and features."""

    ids: tuple[str, ...]
    weights_M: Array  # fp64, sum 1
    g_M: Array  # fp64, cost units
    target_MD: Matrix  # unit rows, fp32
    eps: float  # cost units; 0: of the exact solver
    recipe: Recipe | None  # None: the features were made elsewhere


@dataclass(frozen=True, kw_only=True)
class PotentialsFile:
    """Where potentials lie, and the SHA-256 of what is there. Picklable: every worker reads its own."""

    storage: Storage
    key: str
    sha256: str

    @classmethod
    def at(cls, path: str) -> PotentialsFile:
        """Those of a file, of the folder of a selection, or of the last round of a run. Raises ConfigError."""
        storage, key = _find(path)
        return cls(storage=storage, key=key, sha256=hashlib.sha256(storage.read(key)).hexdigest())

    def read(self) -> TargetPotentials:
        """Raises ConfigError for a file that evoray did not write, StorageError for one that changed meanwhile."""
        data, place = self.storage.read(self.key), self.storage.location(self.key)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise StorageError(f"{place}, which changed meanwhile", "one file for all workers", "run the command again")
        try:
            return _parse(data)
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise ConfigError(
                f"{place}: {str(error).splitlines()[0]}",
                "the potentials.parquet of an evoselect selection or run, as evoray wrote it",
                "give the folder of `evoray select`, or a run directory",
            ) from error


def write_potentials(
    storage: Storage, key: str, ids: Sequence[str], goal: Goal | None, facts: Mapping[str, Any], recipe: Recipe | None
) -> None:
    """Write one row a target row (id, weight, g, feature); eps, rho and the recipe as the schema's metadata.

    `facts`: of the choice. Where they have no potentials (most selectors have none) what an earlier selection left is
    removed.
    """
    if goal is None or "potentials" not in facts:
        storage.delete(key)
        return
    values = pa.array(goal.align_MD.reshape(-1), pa.float32())
    about = {"eps": facts["eps"], "rho": facts.get("rho"), "recipe": None if recipe is None else recipe.to_json()}
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "weight": pa.array(target_weights(goal.weights_M, len(ids)), pa.float64()),
            "g": pa.array(facts["potentials"]["g_M"], pa.float64()),
            "feature": pa.FixedSizeListArray.from_arrays(values, goal.align_MD.shape[1]),
        }
    )
    text = json.dumps(about, sort_keys=True, allow_nan=False)
    storage.write_table(key, table.replace_schema_metadata({_METADATA: text.encode()}))


def _find(path: str) -> tuple[Storage, str]:
    """Storage and key; nothing is created on the way."""
    local = "://" not in path
    if path.endswith(".parquet") or (local and Path(path).expanduser().is_file()):
        folder, _, name = (str(Path(path).expanduser().absolute()) if local else path).rpartition("/")
    else:
        folder, name = path, ""
    if not local or Path(folder).expanduser().is_dir():
        storage = Storage(folder)
        key = name or [POTENTIALS, *files_of_rounds(storage, POTENTIALS)][-1]
        if storage.exists(key):
            return storage, key
    raise ConfigError(
        f"no potentials at {path}",
        f"a {POTENTIALS}, the folder of an evoselect selection, or a run directory with a round that is aligned",
        "check the path; random selections have no potentials",
    )


def _parse(data: bytes) -> TargetPotentials:
    """Raises KeyError, TypeError, ValueError or ArrowException where a column, a type or the metadata is wrong."""
    table = table_from_bytes(data)
    if _METADATA not in (table.schema.metadata or {}) or not {*_KINDS, "feature"} <= set(table.column_names):
        raise ValueError(f"columns {', '.join(table.column_names)}, without {', '.join(_KINDS)}, feature or metadata")
    kinds = {name: table.schema.field(name).type for name in _KINDS}
    feature = table.schema.field("feature").type
    if kinds != _KINDS or not pa.types.is_fixed_size_list(feature) or feature.value_type != pa.float32():
        raise ValueError(f"columns of types {', '.join(map(str, [*kinds.values(), feature]))}")
    about = json.loads(table.schema.metadata[_METADATA])
    recipe = None if about["recipe"] is None else Recipe.from_json(about["recipe"])
    weights_M, g_M = (np.array(table[name].to_pylist(), dtype=np.float64) for name in ("weight", "g"))
    eps = float(about["eps"])
    if not len(g_M) or not np.isfinite(g_M).all() or not (weights_M > 0).all() or not 0 <= eps < np.inf:
        raise ValueError("no row, or numbers that are not finite and positive")
    return TargetPotentials(
        ids=tuple(table["id"].to_pylist()), weights_M=weights_M, g_M=g_M, target_MD=matrix_of(table), eps=eps,
        recipe=recipe,
    )  # fmt: skip
