"""Scores of unseen candidates are the potentials of the solve, extended: against numpy and the stored files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoray import score, select
from evoray.config import ClusterConfig, FeatureConfig, LoraConfig, PoolConfig, SelectionConfig
from evoray.config_file import load_config
from evoray.engine.choose import choose
from evoray.engine.selected import memory_of
from evoray.engine.session import Session
from evoray.engine.shards import StoredTiles
from evoray.engine.stored import Features, read_features
from evoray.errors import ConfigError
from evoray.selection.picks import random_key
from evoray.selection.selector import Goal
from evoray.single import Selection
from evoray.storage import Storage
from tests.conftest import FinishedRun
from tests.engine.test_shards import table_of
from tests.oracles import Array, log_sum_exp
from tests.selection.pools import pool_and_target

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CLUSTER = ClusterConfig(workers=1)
ALIGNED = SelectionConfig(steps=4, lam=0.0, r=0.5, shards=1)


def about(path: Path) -> Any:
    return json.loads(pq.read_schema(path).metadata[b"evoray"])


def features_in(table: pa.Table) -> dict[str, Array]:
    return dict(zip(table["id"].to_pylist(), np.array(table["feature"].to_pylist()), strict=True))


def expected(potentials: Path, features: Mapping[str, Array]) -> tuple[dict[str, float], dict[str, str]]:
    """Potential and nearest target row of every candidate, in fp64 from the files."""
    table, eps = pq.read_table(potentials), about(potentials)["eps"]
    reduced_NM = np.stack(list(features.values())) @ np.array(table["feature"].to_pylist()).T
    nearest = dict(zip(features, (table["id"][index].as_py() for index in reduced_NM.argmax(axis=1)), strict=True))
    reduced_NM = reduced_NM - 1.0 + table["g"].to_numpy()
    if not eps:
        return dict(zip(features, -reduced_NM.max(axis=1), strict=True)), nearest
    f_N = -eps * log_sum_exp(reduced_NM / eps + np.log(table["weight"].to_numpy()), axis=1)
    return dict(zip(features, f_N, strict=True)), nearest


def check(scores: Path, potentials: Path, features: Mapping[str, Array], selected: Path) -> None:
    """The scores are those expected, in order, and those of the picks."""
    rows = pq.read_table(scores).to_pylist()
    by_id = {row["id"]: row for row in rows}
    f, nearest = expected(potentials, features)
    assert list(rows[0]) == ["id", "potential", "similarity", "nearest", "rank"]
    assert set(by_id) == set(features)
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    assert [row["id"] for row in rows] == sorted(f, key=lambda one: (by_id[one]["potential"], one))
    for row in rows:
        assert row["potential"] == pytest.approx(f[row["id"]], abs=1e-6)
        assert row["nearest"] == nearest[row["id"]]
    for pick in pq.read_table(selected).to_pylist():
        found = by_id[pick["id"]]
        assert found["potential"] == pytest.approx(pick["evoray_potential"], abs=1e-5)
        assert found["similarity"] == pytest.approx(pick["evoray_similarity"], abs=1e-5)
        assert found["nearest"] == pick["evoray_nearest"]


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
def test_scores_of_stored_features_are_the_potentials_of_the_solve_and_are_computed_once(
    ray_session: Session, tmp_path: Path, solver: str
) -> None:
    for name, features_ND in zip(("pool", "target"), pool_and_target(3, 90, 14, dim=16), strict=True):
        pq.write_table(table_of(features_ND), tmp_path / f"{name}.parquet")
    pool, out = tmp_path / "pool.parquet", tmp_path / "scores"
    settings = ALIGNED.model_copy(update={"solver": solver})
    select(
        None, None, None, 9, str(tmp_path / "s"), features_path=str(pool), selection=settings, cluster=CLUSTER,
        target_features_path=str(tmp_path / "target.parquet"),
    )  # fmt: skip
    potentials = tmp_path / "s" / "potentials.parquet"
    assert about(potentials)["recipe"] is None
    assert np.isclose(sum(pq.read_table(potentials)["weight"].to_pylist()), 1.0)
    found = score(str(potentials), None, str(out), features_path=str(pool), cluster=CLUSTER)
    assert (found.rows, found.quarantined) == (90, 0)
    check(Path(found.path), potentials, features_in(pq.read_table(pool)), tmp_path / "s" / "selected.parquet")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("unit-*")}
    first = pq.read_table(found.path)
    score(str(tmp_path / "s"), None, str(out), features_path=str(pool), cluster=CLUSTER)
    assert written and {path: path.stat().st_mtime_ns for path in out.rglob("unit-*")} == written
    assert pq.read_table(found.path).equals(first)


def chosen(task: Path, model: Path, out: Path, **features: Any) -> Selection:
    settings = {"representation": "hidden_mean", "max_tokens": 96, **features}
    return select(
        str(task / "pool.jsonl"), str(task / "target"), str(model), 6, str(out), features=FeatureConfig(**settings),
        lora=LoraConfig(rank=2), selection=ALIGNED, reading=PoolConfig(unit_rows=32, max_chars=500), cluster=CLUSTER,
    )  # fmt: skip


@pytest.mark.soak
def test_a_new_pool_is_featurised_as_the_pool_of_the_selection_was(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    selected = tmp_path / "s"
    warmup = {"rows": 8, "threads": 1, "checkpoints": 2, "batch_size": 4}
    chosen(task, tiny_model_dir, selected, representation="gradient", dim=64, warmup=warmup)
    recipe = about(selected / "potentials.parquet")["recipe"]
    assert (recipe["model"], recipe["seed"], recipe["max_chars"]) == (str(tiny_model_dir), 0, 500)
    assert [Path(path).name for path in recipe["adapters"]] == ["checkpoint-1", "checkpoint-2"]
    # Among rows that were not there before, those of the old pool get the potentials of the solve.
    row = {"id": "new", "instruction": "say abc", "output": "abc"}
    lines = (task / "pool.jsonl").read_text() + json.dumps(row) + "\n" + json.dumps({**row, "output": "x" * 501})
    (tmp_path / "new.jsonl").write_text(lines)
    out = tmp_path / "scores"
    found = score(
        str(selected), str(tmp_path / "new.jsonl"), str(out), reading=PoolConfig(unit_rows=32), cluster=CLUSTER
    )
    assert (found.rows, found.quarantined) == (61, 1)
    (folder,) = (out / "features").iterdir()
    stored = pa.concat_tables([pq.read_table(path, columns=["id", "feature"]) for path in folder.glob("*.parquet")])
    potentials = selected / "potentials.parquet"
    check(Path(found.path), potentials, features_in(stored), selected / "selected.parquet")
    # Another adapter in the place of the recorded one is no proxy of these potentials.
    weights = Path(recipe["adapters"][0]) / "adapter_model.safetensors"
    weights.write_bytes((Path(recipe["adapters"][1]) / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="other weights"):
        score(str(selected), str(tmp_path / "new.jsonl"), str(out), cluster=CLUSTER)


def test_centred_features_of_a_new_pool_are_refused_and_of_a_random_choice_nothing_is_left(
    ray_session: Session, task: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    chosen(task, tiny_model_dir, tmp_path / "s", centred=True)
    with pytest.raises(ConfigError, match="centred"):
        score(str(tmp_path / "s"), str(task / "pool.jsonl"), str(tmp_path / "scores"), cluster=CLUSTER)
    select(str(task / "pool.jsonl"), None, None, 6, str(tmp_path / "s"), selector="random", cluster=CLUSTER)
    with pytest.raises(ConfigError, match="no potentials"):
        score(str(tmp_path / "s"), str(task / "pool.jsonl"), str(tmp_path / "scores"), cluster=CLUSTER)


def test_a_run_directory_scores_by_its_last_round(finished_run: FinishedRun, tmp_path: Path) -> None:
    run = finished_run.out
    record = json.loads((run / "rounds" / "0002" / "featurised.json").read_text())["pool"]
    store = run / "features" / record["fingerprint"]
    found = score(str(run), None, str(tmp_path), features_path=str(store), cluster=CLUSTER)
    tables = [pq.read_table(path, columns=["id", "feature"]) for path in store.glob("*.parquet")]
    last = run / "rounds" / "0002"
    check(
        Path(found.path), last / "potentials.parquet", features_in(pa.concat_tables(tables)), last / "selected.parquet"
    )
    recipe = about(last / "potentials.parquet")["recipe"]
    assert recipe["adapters"] == [str(run / "rounds" / "0001" / "adapter")]
    aligned = json.loads((last / "aligned.json").read_text())
    assert pq.read_table(last / "potentials.parquet")["g"].to_pylist() == aligned["potentials"]["g_M"]


def test_the_second_round_starts_from_the_record_of_the_first_for_any_number_of_shards(
    finished_run: FinishedRun, ray_session: Session
) -> None:
    run = Storage(finished_run.out)
    record = run.read_json("rounds/0002/featurised.json")
    pool = Features.of(run, record["pool"])
    goal = Goal(align_MD=read_features(Features.of(run, record["align"]))[1], validate_MD=None)
    used, seed = run.read_json("rounds/0001/selected.json")["ids"], random_key("select:2", 0) % 2**31
    memory = memory_of(pool.store, pool.units, used, seed)
    tiles, settings = StoredTiles(store=pool.store, units=pool.units), load_config(finished_run.config).selection
    first, second = (run.read_json(f"rounds/000{number}/aligned.json")["potentials"] for number in (1, 2))

    def potentials(shards: int, start_g_M: Array | None) -> Any:
        config = settings.model_copy(update={"shards": shards})
        choice = choose(tiles, goal, config, seed, ray_session, lambda _d, _t: None, used, memory, start_g_M)
        return choice.facts["potentials"]

    for shards in (1, 3):
        assert potentials(shards, np.array(first["start_g_M"])) == second
    assert potentials(1, None)["start_g_M"] != second["start_g_M"]
