"""From rows to a feature table: tokenise, batch by length, take gradients, normalise, flag.

The batches are a pure function of the rows given (one unit), so the result does not depend on how many
workers there are or which of them had the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from evoray.features.gradient import GradientFeatures
from evoray.models.chat import Encoded, encode
from evoray.models.loss import collate, token_budget_batches
from evoray.records import FLAG_TRUNCATED, Quarantined, Row, feature_schema

_STAGE = "featurise"


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """One unit's features (see `records.feature_schema`) and the rows that have none."""

    table: pa.Table
    quarantined: list[Quarantined]
    truncated: int


def featurise_rows(
    rows: Sequence[Row],
    features: GradientFeatures,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    batch_tokens: int,
) -> FeatureTable:
    """Unit-norm features of rows, in the rows' order.

    Rows without a supervised token, with a zero or non-finite gradient or loss go to quarantine.
    """
    encoded = encode(rows, tokenizer, max_tokens)
    usable = [index for index, sample in enumerate(encoded) if any(sample.supervised)]
    lost = set(range(len(rows))) - set(usable)
    quarantined = [_quarantine(rows[index], "no supervised token", "the response is empty") for index in sorted(lost)]
    sketch_ND, loss_N = _all_gradients([encoded[index] for index in usable], features, tokenizer, batch_tokens)
    norm_N = np.linalg.norm(sketch_ND.astype(np.float64), axis=1)
    good_N = np.isfinite(norm_N) & np.isfinite(loss_N) & (norm_N > 0)
    for place in np.flatnonzero(~good_N):
        detail = f"loss {loss_N[place]}, gradient norm {norm_N[place]}"
        quarantined.append(_quarantine(rows[usable[place]], "no finite gradient", detail))
    kept = [usable[place] for place in np.flatnonzero(good_N)]
    unit_ND = (sketch_ND[good_N] / norm_N[good_N, None]).astype(np.float32)
    samples = [encoded[index] for index in kept]
    table = _table([rows[i].id for i in kept], unit_ND, norm_N[good_N], loss_N[good_N], samples, features.dim)
    return FeatureTable(table=table, quarantined=quarantined, truncated=sum(s.truncated for s in samples))


def _all_gradients(
    samples: Sequence[Encoded], features: GradientFeatures, tokenizer: PreTrainedTokenizerBase, batch_tokens: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    sketch_ND = np.zeros((len(samples), features.dim), np.float32)
    loss_N = np.zeros(len(samples), np.float32)
    for indices in token_budget_batches([len(sample.ids) for sample in samples], batch_tokens):
        batch = collate([samples[index] for index in indices], int(tokenizer.pad_token_id))
        result = features(batch.to(features.device))
        sketch_ND[indices] = result.sketch_BD.cpu().numpy()
        loss_N[indices] = result.loss_B.to(torch.float32).cpu().numpy()
    return sketch_ND, loss_N


def _table(
    ids: Sequence[str],
    unit_ND: npt.NDArray[np.float32],
    norm_N: npt.NDArray[np.float64],
    loss_N: npt.NDArray[np.float32],
    samples: Sequence[Encoded],
    dim: int,
) -> pa.Table:
    values = pa.array(unit_ND.reshape(-1), pa.float32())
    columns = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(values, dim),
        pa.array(norm_N, pa.float32()),
        pa.array([len(sample.ids) for sample in samples], pa.int32()),
        pa.array(loss_N, pa.float32()),
        pa.array([FLAG_TRUNCATED * sample.truncated for sample in samples], pa.uint8()),
    ]
    return pa.Table.from_arrays(columns, schema=feature_schema(dim))


def _quarantine(row: Row, reason: str, detail: str) -> Quarantined:
    return Quarantined(id=row.id, stage=_STAGE, reason=reason, detail=detail, file="", row=-1)
