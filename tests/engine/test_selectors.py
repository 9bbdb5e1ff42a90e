"""Every selector over real actors: the same picks for one and three of them, and budgets of all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evoray import select
from evoray.config import SELECTORS, SelectionConfig
from evoray.config_file import build_config
from evoray.engine.choose import choose, choose_from, open_shards, shard_needs
from evoray.engine.journal import StorageJournal
from evoray.engine.selectors import check_proxy
from evoray.engine.session import Session
from evoray.engine.shards import ParquetTiles
from evoray.errors import ConfigError, SelectionError
from evoray.selection.descent import POOL
from evoray.selection.local import LocalShards
from evoray.selection.selector import Goal, Request
from evoray.selection.selectors import HOMES, build_selector
from evoray.selection.shard import Tile
from evoray.storage import Storage
from tests.oracles import Array
from tests.selection.pools import pool_and_target

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS, K = 9000, 40  # three tiles of an external file
X, Y = pool_and_target(0, ROWS, 12, dim=8)
#: The selectors that are defined on three columns of their own.
UNSURE = ("entropy", "margin", "least_confidence")
TOKENS = np.random.default_rng(1).integers(5, 60, ROWS)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> ParquetTiles:
    """Features from elsewhere with all columns that any selector asks for."""
    return write(tmp_path_factory.mktemp("features") / "pool.parquet", X)


def write(path: Path, features_ND: Array) -> ParquetTiles:
    columns: dict[str, Any] = {
        "id": [f"row-{row:05d}" for row in range(ROWS)],
        "feature": pa.array(list(features_ND.astype(np.float32)), pa.list_(pa.float32())),
        "quality": np.random.default_rng(2).normal(size=ROWS),
        "tokens": TOKENS,
    }
    pq.write_table(pa.table(columns), path)
    return ParquetTiles.open(str(path))


def goal() -> Goal:
    subtasks = tuple("ab"[row % 2] for row in range(6))
    return Goal(align_MD=Y[:6].astype(np.float32), validate_MD=Y[6:].astype(np.float32), subtasks_M=subtasks)


def config_of(name: str, **values: Any) -> SelectionConfig:
    fixed = {"steps": 4, "lambda": 0.3, "r": 0.5} if name == "evoselect" else {}
    return SelectionConfig.model_validate({"selector": name, "k": K, **fixed, **values})


def test_every_name_of_the_config_is_a_selector_and_says_what_it_is() -> None:
    assert sorted(HOMES) == sorted(SELECTORS)
    for name in SELECTORS:
        assert type(build_selector(name, {})).__doc__, name


def picks_over(tiles: ParquetTiles, session: Session, names: Sequence[str], shards: int) -> dict[str, list[str]]:
    """Picks of some selectors that need the same of shards."""
    with open_shards(tiles, config_of(names[0], shards=shards), session) as opened:
        found = {}
        for name in names:
            request = Request(k=1, rows=1, seed=5, goal=goal())
            found[name] = [pick.id for pick in choose_from(opened, config_of(name), request).picks]
    return found


def test_every_selector_picks_the_same_over_one_and_three_actors(
    tiles: ParquetTiles, tmp_path: Path, ray_session: Session
) -> None:
    unsure = write(tmp_path / "unsure.parquet", np.abs(X[:, :3]))
    groups: dict[Any, list[str]] = {}
    for name in SELECTORS:
        groups.setdefault((name in UNSURE, shard_needs(config_of(name))), []).append(name)
    for (own, _), names in groups.items():
        one, three = (picks_over(unsure if own else tiles, ray_session, names, shards) for shards in (1, 3))
        for name in names:
            assert len(set(one[name])) == (ROWS if name == "all" else K), name
            assert one[name] == three[name], name


def test_budgets_are_rows_shares_and_tokens(tiles: ParquetTiles, ray_session: Session) -> None:
    def picks(**values: Any) -> list[str]:
        choice = choose(tiles, goal(), config_of("less", **values), 0, ray_session, lambda _done, _total: None)
        return [pick.id for pick in choice.picks]

    ranked = picks(k=200)
    assert picks(k=0.01) == ranked[: round(0.01 * ROWS)]
    chosen = picks(k="1000tok")
    assert chosen == ranked[: len(chosen)]
    totals = np.cumsum([TOKENS[int(row_id.removeprefix("row-"))] for row_id in ranked])
    assert abs(totals[len(chosen) - 1] - 1000) == np.abs(totals - 1000).min()


@pytest.mark.parametrize("kept", [False, True])
def test_a_budget_of_tokens_is_spent_with_and_without_notes_of_the_descent(kept: bool, tmp_path: Path) -> None:
    """Picks shorter than the pool's mean: more rows are ranked than the first ranking has, which the notes hold."""
    rng = np.random.default_rng(0)
    rows_ND = rng.normal(size=(200, 8))
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    near_N = (rows_ND @ rows_ND[:6].T).max(axis=1)
    token_N = np.where(near_N > np.quantile(near_N, 0.6), 20.0, 200.0)
    tiles = [
        Tile(
            index=place, ids=[f"r{row:03d}" for row in span], columns={"tokens": torch.tensor(token_N[span])},
            features_ND=torch.tensor(rows_ND[span], dtype=torch.float32),
        )
        for place, span in enumerate(np.split(np.arange(200), 4))
    ]  # fmt: skip
    shards = LocalShards.of_tiles(tiles, 2)
    journal = StorageJournal(Storage(tmp_path), "solver/x", shards, POOL) if kept else None
    request = Request(k=1, rows=1, goal=Goal(align_MD=rows_ND[:6].astype(np.float32)), journal=journal)
    choice = choose_from(shards, config_of("evoselect", k="2000tok"), request)
    assert abs(choice.facts["tokens"] - 2000) <= 200
    assert choice.facts["tokens"] == sum(token_N[int(pick.id[1:])] for pick in choice.picks)


def test_what_a_selector_needs_and_the_features_do_not_have_is_said(tmp_path: Path, ray_session: Session) -> None:
    path = tmp_path / "bare.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "feature": [[1.0, 0.0], [0.0, 1.0]]}), path)
    with pytest.raises(SelectionError, match="column quality"):
        select(None, None, None, 1, str(tmp_path / "o"), selector="deita", features_path=str(path))
    with pytest.raises(SelectionError, match="column tokens"):
        select(None, None, None, "10tok", str(tmp_path / "o"), selector="k_center", features_path=str(path))
    with pytest.raises(ConfigError, match="no option"):
        select(None, None, None, 1, str(tmp_path / "o"), selector="doubly_greedy", options={"over": 1})
    with pytest.raises(ConfigError, match=r"selection\.lambda"):
        select(None, None, None, 1, str(tmp_path / "o"), options={"lambda": 1})


@pytest.mark.parametrize(("selector", "refused"), [("evoselect", True), ("random", False)])
def test_features_follow_no_model_that_is_trained_whole(selector: str, refused: bool) -> None:
    data = {"pool": "p", "target": "t", "training": {"weights": "full"}, "selection": {"selector": selector}}
    check_proxy(build_config({**data, "rounds": 1}))
    check_proxy(build_config({**data, "features": {"refresh": "never"}}))
    config = build_config(data)
    if refused:
        with pytest.raises(ConfigError, match=r"features\.refresh"):
            check_proxy(config)
    else:
        check_proxy(config)
