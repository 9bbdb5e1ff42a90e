"""Rows to feature tables: what is kept, flagged, set aside, and what happens where memory ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from evoray.errors import StageError
from evoray.features.protocol import FeatureBatch
from evoray.features.rows import FeatureTable, featurise_rows, norm_outliers
from evoray.models.chat import Encoded
from evoray.models.loss import Batch
from evoray.records import FLAG_TRUNCATED, Message, Row

PAD = 0


class Counts:
    """Features that can be checked by hand: (1, number of tokens); rows of a given first token misbehave."""

    dim = 2
    device = torch.device("cpu")

    def __init__(self, memory: int = 1000, losses: bool = True) -> None:
        self.memory, self.losses = memory, losses
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, batch: Batch) -> FeatureBatch:
        if batch.ids_BT.numel() > self.memory:
            raise torch.OutOfMemoryError("no memory left")
        self.shapes.append(tuple(batch.ids_BT.shape))
        tokens = batch.attention_BT.sum(1).float()
        feature = torch.stack([torch.ones_like(tokens), tokens], 1)
        feature[batch.ids_BT[:, 0] == 7] = float("nan")
        feature[batch.ids_BT[:, 0] == 8] = 0.0
        return FeatureBatch(feature, tokens / 10 if self.losses else None)


def rows_of(lengths: Sequence[int]) -> list[Row]:
    return [Row(id=f"r{n}", messages=(Message("assistant", str(length)),)) for n, length in enumerate(lengths)]


def encode(rows: Sequence[Row]) -> list[Encoded]:
    """As many tokens as the text says; -n: n tokens, none of them supervised; 100 n + k: n tokens, the first is k."""
    found = []
    for row in rows:
        value = int(row.messages[0].content)
        count, first = (value // 100, value % 100) if value >= 100 else (abs(value), 1)
        ids = [first] + [1] * (count - 1)
        supervised = [value > 0 and place > 0 for place in range(count)]
        found.append(Encoded(ids=ids, supervised=supervised, truncated=count > 50, chars=count))
    return found


def featurise(lengths: Sequence[int], extractor: Counts, batch_tokens: int = 64) -> FeatureTable:
    return featurise_rows(rows_of(lengths), extractor, encode, pad_id=PAD, batch_tokens=batch_tokens)


def test_rows_come_out_in_order_with_unit_features_norms_tokens_and_losses() -> None:
    table = featurise([5, 60, 9], Counts()).table
    assert table["id"].to_pylist() == ["r0", "r1", "r2"]
    assert table["tokens"].to_pylist() == [5, 60, 9]
    assert table["supervised"].to_pylist() == [4, 59, 8]
    np.testing.assert_allclose(table["norm"].to_pylist(), [np.hypot(1, n) for n in (5, 60, 9)], rtol=1e-6)
    np.testing.assert_allclose(table["loss"].to_pylist(), [0.5, 6.0, 0.9], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(table["feature"].to_pylist(), axis=1), 1, rtol=1e-6)
    assert [bool(flags & FLAG_TRUNCATED) for flags in table["flags"].to_pylist()] == [False, True, False]


def test_rows_without_a_feature_are_set_aside_with_their_reasons() -> None:
    result = featurise([5, -4, 307, 308, 6], Counts())
    assert result.table["id"].to_pylist() == ["r0", "r4"]
    assert [(row.id, row.reason) for row in result.quarantined] == [
        ("r1", "no supervised token"),
        ("r2", "no finite feature"),
        ("r3", "no finite feature"),
    ]


def test_a_representation_without_losses_leaves_them_empty() -> None:
    result = featurise([5, 6], Counts(losses=False))
    assert result.table["loss"].to_pylist() == [None, None]
    assert result.quarantined == []


def test_a_batch_that_does_not_fit_is_cut_in_two() -> None:
    extractor = Counts(memory=20)
    result = featurise([10, 10, 10, 10], extractor)
    assert result.table.equals(featurise([10, 10, 10, 10], Counts()).table)
    assert result.halvings == 1
    assert extractor.shapes == [(2, 10), (2, 10)]


def test_a_row_that_does_not_fit_alone_stops_the_stage_and_is_not_lost() -> None:
    with pytest.raises(StageError, match="a row of 30 tokens"):
        featurise([10, 30], Counts(memory=20))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Counts):
        def __call__(self, batch: Batch) -> FeatureBatch:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        featurise([5], Broken())


def test_a_unit_without_usable_rows_is_an_empty_table() -> None:
    result = featurise([-3], Counts())
    assert result.table.num_rows == 0
    assert result.table.schema.field("feature").type.list_size == 2


def test_only_norms_far_off_the_others_are_outliers() -> None:
    norms = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 300.0, 1e-4])
    assert norm_outliers(norms).tolist() == [False] * 5 + [True] * 2
    assert not norm_outliers(np.array([2.0, 2.0, 2.0 + 1e-9])).any()
    assert norm_outliers(np.zeros(0)).tolist() == []
