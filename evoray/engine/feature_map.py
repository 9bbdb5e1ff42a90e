"""The map of a round: a sample of the pool, the target and the choice in the two directions that vary most in the pool.

The same rows give the same map: the sample is drawn by the rows' ids, and the sign of a direction by its entries. Only
some units are read, spread over the pool, so that a pool of any size takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from evoray.engine.remote import in_task
from evoray.engine.rundir import Rounds
from evoray.engine.selected import features_of_ids
from evoray.engine.shards import matrix_of, units_of
from evoray.engine.stored import POOL, Features, read_features
from evoray.report.evidence import Cloud, FeatureMap
from evoray.selection.picks import random_key
from evoray.storage import Storage

Matrix = npt.NDArray[np.float64]

_POOL_ROWS, _FEW_ROWS = 2000, 500  # on the map at most: of the pool; of the target and of the choice
_UNITS = 256  # of the pool that are read at most
_SEED = 0
_NO_PLACES = {"uncertainty"}  # a few numbers a row, which point nowhere


def map_of_round(storage: Storage, site_storage: Storage, number: int, representation: str) -> FeatureMap | None:
    """The map of a round that has features which are still in storage; None of any other."""
    featurised = f"{Rounds.prefix(number)}/featurised.json"
    if representation in _NO_PLACES or not storage.exists(featurised):
        return None
    record = storage.read_json(featurised)
    pool, align = (Features.of(site_storage, record[name]) for name in (POOL, "align"))
    picks = f"{Rounds.prefix(number)}/picks.parquet"
    return in_task(_map, storage, picks, pool, align, number, representation)


def _map(
    storage: Storage, picks_key: str, pool: Features, align: Features, number: int, representation: str
) -> FeatureMap | None:
    if any(set(one.units) - set(one.store.committed()) for one in (pool, align)):
        return None  # deleted since, to save room
    picks = storage.read_table(picks_key, ["id", "tile"])
    shown = picks.take(_spread(picks.num_rows, _FEW_ROWS))
    chosen_KD = features_of_ids(pool.store, units_of(pool.units, shown["tile"].to_pylist()), shown["id"].to_pylist())
    target_MD = read_features(align)[1]
    target_MD = target_MD[_spread(len(target_MD), _FEW_ROWS)]
    rows = tuple(matrix.astype(np.float64) for matrix in (_sample(pool), target_MD, chosen_KD))
    return draw_map(rows, (pool.rows, align.rows, picks.num_rows), number, representation)


def _sample(pool: Features) -> Matrix:
    """Features of the rows that come first by a hash of their ids, in units that are spread over the pool."""
    keys = np.empty(0, dtype=np.uint64)
    pieces: list[npt.NDArray[np.float32]] = []
    units = [pool.units[place] for place in _spread(len(pool.units), _UNITS)]
    for table in pool.store.tables(units, ["id", "feature"]):
        if table.num_rows:
            drawn = [random_key(row_id, _SEED) for row_id in table["id"].to_pylist()]
            keys = np.concatenate([keys, np.array(drawn, dtype=np.uint64)])
            first = np.argsort(keys, kind="stable")[:_POOL_ROWS]
            keys, pieces = keys[first], [np.concatenate([*pieces, matrix_of(table)])[first]]
    return np.concatenate(pieces).astype(np.float64) if pieces else np.empty((0, 0))


def _spread(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly spread."""
    return list(range(count)) if count <= most else [place * count // most for place in range(most)]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The two directions that vary most, and where the rows vary about."""

    mean_D: Matrix
    axes_2D: Matrix
    explained: tuple[float, float]  # parts of the variance

    @classmethod
    def of(cls, rows_ND: Matrix) -> Plane | None:
        """Of some rows; None where fewer than two directions vary.

        A direction and its opposite are the same: the largest of its entries is made positive.
        """
        mean_D = rows_ND.mean(axis=0)
        centred_ND = rows_ND - mean_D
        n, dim = centred_ND.shape
        gram = centred_ND @ centred_ND.T if n <= dim else centred_ND.T @ centred_ND
        if len(gram) < 2:
            return None
        values, vectors = eigh(gram, subset_by_index=[len(gram) - 2, len(gram) - 1])
        total = float(np.trace(gram))
        if not values[0] > 1e-12 * total:
            return None
        axes_2D = (centred_ND.T @ vectors if n <= dim else vectors).T[::-1]
        axes_2D = axes_2D / np.linalg.norm(axes_2D, axis=1, keepdims=True)
        largest = axes_2D[[0, 1], np.abs(axes_2D).argmax(axis=1)]
        explained = (float(values[1]) / total, float(values[0]) / total)
        return cls(mean_D=mean_D, axes_2D=axes_2D * np.sign(largest)[:, None], explained=explained)

    def places(self, rows_ND: Matrix) -> tuple[tuple[float, float], ...]:
        """Where rows lie on it, to four digits."""
        return tuple((_short(x), _short(y)) for x, y in (rows_ND - self.mean_D) @ self.axes_2D.T)


def draw_map(
    rows: Sequence[Matrix], counts: tuple[int, int, int], number: int, representation: str
) -> FeatureMap | None:
    """The map of rows of the pool, the target and the choice; counts: of each in all.

    None where the pool has no two directions.
    """
    pool_ND, target_MD, _ = rows
    plane = Plane.of(pool_ND) if len(pool_ND) else None
    if plane is None:
        return None
    kinds: tuple[Literal["pool", "target", "chosen"], ...] = ("pool", "target", "chosen")
    clouds = [
        Cloud(kind=kind, rows=count, places=plane.places(of_kind), nearest=_nearest(of_kind, target_MD))
        for kind, count, of_kind in zip(kinds, counts, rows, strict=True)
    ]
    explained = (_short(plane.explained[0]), _short(plane.explained[1]))
    return FeatureMap(round=number, representation=representation, explained=explained, clouds=tuple(clouds))


def _nearest(rows_ND: Matrix, target_MD: Matrix) -> float | None:
    """Mean cosine with the nearest target row, of target rows with the nearest other one; None without any."""
    cosine_NM = rows_ND @ target_MD.T
    if rows_ND is target_MD:
        np.fill_diagonal(cosine_NM, -np.inf)
    nearest_N = cosine_NM.max(axis=1, initial=-np.inf)
    return _short(float(nearest_N.mean())) if len(rows_ND) and np.isfinite(nearest_N).all() else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")
