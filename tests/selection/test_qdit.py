from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.errors import SelectionError
from evoray.selection import facility, qdit
from evoray.selection.picks import random_key
from evoray.selection.qdit import QDit
from tests.oracles import Array, clustered_rows, unit_rows
from tests.selection.exact_rows import choice, chosen, everywhere_equal, names, shards_of, tied_rows


def greedy(
    features_ND: Array,
    ids: list[str],
    quality_N: Array,
    k: int,
    *,
    alpha: float = 0.9,
    barred: tuple[str, ...] = (),
    references: int = 4096,
) -> list[str]:
    """The definition, with every score computed for every pick, in whole numbers: ties are exact.

    Rows are rounded to multiples of 2^-25 and similarities further, so that their sums fit into fp64.
    """
    usable = sorted((row_id, row) for row, row_id in enumerate(ids) if row_id not in barred)
    rows = np.array([row for _, row in usable])
    quality_n = quality_N[rows] - quality_N[rows].min()
    quality_n = quality_n / (quality_n.max() or 1.0)
    drawn = sorted((random_key(f"references\0{row_id}", 0), place) for place, (row_id, _) in enumerate(usable))
    reference_R = np.array([place for _, place in drawn[:references]])
    x = np.round(np.float64(np.float32(features_ND))[rows] * 2.0**25).astype(np.int64)
    bits = len(reference_R).bit_length()
    similar_nn = np.round((x @ x.T).astype(np.float64) / 2.0**bits).astype(np.int64)
    unit = 2.0 ** (50 - bits)
    mine_n = np.isin(np.arange(len(rows)), reference_R)
    stand_for_n = (len(rows) - 1) / np.maximum(len(reference_R) - mine_n, 1)
    served_n = np.zeros(len(rows), dtype=np.int64)
    picks: list[int] = []
    while len(picks) < k:
        gain_nn = np.maximum(similar_nn - served_n, 0)
        own_n = gain_nn.diagonal()
        others_n = gain_nn[:, reference_R].sum(axis=1) - np.where(mine_n, own_n, 0)
        score_n = (1 - alpha) * (own_n / unit + stand_for_n * (others_n / unit)) + alpha * quality_n
        score_n[picks] = -np.inf
        best = int(score_n.argmax())  # the first of equal ones: rows are in the order of ids
        picks.append(best)
        served_n = np.maximum(served_n, similar_nn[best])
    return [usable[place][0] for place in picks]


def pool(seed: int, n: int, kind: str) -> tuple[Array, list[str], Array]:
    rng = np.random.default_rng(seed)
    features_ND = tied_rows(seed, n) if kind == "tied" else clustered_rows(rng, n, unit_rows(rng, 6, 8), 0.3)
    return features_ND, names(n, seed), rng.integers(1, 5, n).astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["tied", "clustered"])
@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("references", [4096, 20])
def test_picks_are_greedy(seed: int, kind: str, alpha: float, references: int) -> None:
    features_ND, ids, quality_N = pool(seed, 60, kind)
    barred = tuple(ids[:6])
    selector = QDit(alpha=alpha, references=references)
    found = everywhere_equal(selector, features_ND, ids, 40, quality_N=quality_N, excluded=barred)
    assert found == greedy(features_ND, ids, quality_N, 40, alpha=alpha, barred=barred, references=references)


@pytest.mark.parametrize("references", [4096, 1, 7])
def test_every_row_can_be_picked(references: int) -> None:
    features_ND, ids, quality_N = pool(8, 40, "tied")
    found = everywhere_equal(QDit(references=references), features_ND, ids, 40, quality_N=quality_N)
    assert found == greedy(features_ND, ids, quality_N, 40, references=references)
    assert chosen(QDit(), shards_of(features_ND[:1], ids[:1], quality_N[:1]), 1) == ids[:1]


@pytest.mark.parametrize("offer", [1, 3, 512])
def test_the_size_of_an_offer_changes_no_pick(offer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OFFER", "LEAST_OFFER", "LARGEST_OFFER"):
        monkeypatch.setattr(qdit, name, offer)
    for module in (qdit, facility):
        monkeypatch.setattr(module, "COMPARED", 5)
    monkeypatch.setattr(facility, "ROWS", 4)
    for kind in ("tied", "clustered"):
        features_ND, ids, quality_N = pool(4, 40, kind)
        found = chosen(QDit(references=25), shards_of(features_ND, ids, quality_N, n_shards=2), 20)
        assert found == greedy(features_ND, ids, quality_N, 20, references=25)


@pytest.mark.parametrize(("references", "least_recall", "least_worth"), [(500, 0.50, 0.70), (1_000, 0.55, 0.90)])
def test_a_sample_of_references_finds_what_the_docstring_says(
    references: int, least_recall: float, least_worth: float
) -> None:
    rng = np.random.default_rng(0)
    features_ND = clustered_rows(rng, 2_000, unit_rows(rng, 100, 64), 0.12)
    quality_N, ids = rng.normal(3.0, 1.0, 2_000), [f"{row:04d}" for row in range(2_000)]
    scaled_N = (quality_N - quality_N.min()) / (quality_N.max() - quality_N.min())

    def worth(picks: list[str]) -> float:
        rows = [int(row_id) for row_id in picks]
        served_N = np.maximum(features_ND @ features_ND[rows].T, 0.0).max(axis=1)
        return float(0.1 * served_N.sum() + 0.9 * scaled_N[rows].sum())

    shards = shards_of(features_ND, ids, quality_N, height=512)
    exact = choice(QDit(), shards, 100)
    assert exact.facts == {"references": 2_000, "exact": True}
    picks, best = [pick.id for pick in exact.picks], [ids[row] for row in np.argsort(-quality_N)[:100]]
    recalls, worths = [], []
    for seed in range(10):
        sampled = choice(QDit(references=references), shards, 100, seed=seed)
        assert sampled.facts == {"references": references, "exact": False}
        some = [pick.id for pick in sampled.picks]
        recalls.append(len({*picks} & {*some}) / 100)
        worths.append((worth(some) - worth(best)) / (worth(picks) - worth(best)))
    assert np.mean(recalls) >= least_recall
    assert np.mean(worths) >= least_worth


def test_equal_rows_of_equal_quality_are_picked_by_id() -> None:
    ids = names(12, 2)
    shards = shards_of(np.tile([[0.6, 0.8]], (12, 1)), ids, [3.0] * 12, n_shards=2)
    assert chosen(QDit(), shards, 12) == sorted(ids)


def test_more_rows_than_k_only_add_rows() -> None:
    features_ND, ids, quality_N = pool(5, 80, "clustered")
    shards = shards_of(features_ND, ids, quality_N)
    assert chosen(QDit(), shards, 20, rows=60)[:20] == chosen(QDit(), shards, 20)


def test_a_row_without_quality_is_named() -> None:
    features_ND, ids, quality_N = pool(6, 20, "tied")
    quality_N[4] = np.inf
    with pytest.raises(SelectionError, match="1 usable rows without a finite quality"):
        chosen(QDit(), shards_of(features_ND, ids, quality_N, n_shards=3), 5)
    assert len(chosen(QDit(), shards_of(features_ND, ids, quality_N, excluded=[ids[4]]), 19)) == 19


@given(seed=st.integers(0, 99), n=st.integers(1, 30), k=st.integers(1, 30), n_shards=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_exactly_k_distinct_usable_rows_are_picked(seed: int, n: int, k: int, n_shards: int) -> None:
    features_ND, ids, quality_N = pool(seed, n, "tied")
    shards = shards_of(features_ND, ids, quality_N, height=3, n_shards=n_shards, excluded=ids[: n // 3])
    if k <= n - n // 3:
        assert len(chosen(QDit(references=8), shards, k)) == k
    else:
        with pytest.raises(SelectionError):
            chosen(QDit(), shards, k)
