"""From rows to a feature table: tokenise, batch by length, extract, normalise, flag.

The batches are a pure function of the rows given (one unit), so the result does not depend on how many
workers there are or which of them had the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evoray.features.protocol import Extractor
from evoray.models.chat import Encoded
from evoray.models.loss import collate, token_budget_batches
from evoray.models.memory import does_not_fit, in_parts, is_out_of_memory
from evoray.records import FLAG_NORM_OUTLIER, FLAG_TRUNCATED, Quarantined, Row, feature_schema

_STAGE = "featurise"
#: A norm is an outlier where its logarithm is this many robust standard deviations off the unit's median.
_OUTLIER_DEVIATIONS = 5.0

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """One unit's features (see `records.feature_schema`) and the rows that have none."""

    table: pa.Table
    quarantined: list[Quarantined]
    halvings: int  # how often a batch did not fit into memory and was cut in two


def featurise_rows(
    rows: Sequence[Row],
    extractor: Extractor,
    encode: Callable[[Sequence[Row]], list[Encoded]],
    *,
    pad_id: int,
    batch_tokens: int,
) -> FeatureTable:
    """Unit-norm features of rows, in the rows' order.

    Rows without a supervised token, with a zero or non-finite feature or loss go to quarantine. Raises StageError for
    a row that does not fit into memory even alone: with more memory, or when others leave some, it would.
    """
    encoded = encode(rows)
    usable = [index for index, sample in enumerate(encoded) if any(sample.supervised)]
    lost = set(range(len(rows))) - set(usable)
    quarantined = [_quarantine(rows[index], "no supervised token", "the response is empty") for index in sorted(lost)]
    passes = _Passes(extractor, [encoded[index] for index in usable], pad_id)
    for indices in token_budget_batches([len(encoded[index].ids) for index in usable], batch_tokens):
        passes.run(indices)
    norm_N = np.linalg.norm(passes.feature_ND.astype(np.float64), axis=1)
    good_N = np.isfinite(norm_N) & (norm_N > 0) & passes.losses_are_finite()
    for place in np.flatnonzero(~good_N):
        row, tokens = rows[usable[place]], len(encoded[usable[place]].ids)
        detail = f"{tokens} tokens, loss {passes.loss_N[place]}, norm {norm_N[place]}"
        quarantined.append(_quarantine(row, "no finite feature", detail))
    kept = [usable[place] for place in np.flatnonzero(good_N)]
    table = _table(
        [rows[index].id for index in kept],
        (passes.feature_ND[good_N] / norm_N[good_N, None]).astype(np.float32),
        norm_N[good_N],
        passes.loss_N[good_N],
        [encoded[index] for index in kept],
    )
    return FeatureTable(table=table, quarantined=quarantined, halvings=passes.halvings)


class _Passes:
    """Features of samples, batch by batch; a batch that does not fit into memory is cut in two."""

    def __init__(self, extractor: Extractor, samples: Sequence[Encoded], pad_id: int) -> None:
        self._extractor, self._samples, self._pad_id = extractor, samples, pad_id
        self._has_losses = True
        self.feature_ND = np.zeros((len(samples), extractor.dim), np.float32)
        self.loss_N = np.full(len(samples), np.nan, np.float32)
        self.halvings = 0

    def run(self, indices: Sequence[int]) -> None:
        """Fill in the features of some samples."""
        self.halvings += in_parts(indices, self._fill)

    def losses_are_finite(self) -> npt.NDArray[np.bool_]:
        """Of each sample; true where the representation has no losses."""
        finite: npt.NDArray[np.bool_] = (
            np.isfinite(self.loss_N) if self._has_losses else np.ones_like(self.loss_N, bool)
        )
        return finite

    def _fill(self, indices: Sequence[int]) -> None:
        batch = collate([self._samples[index] for index in indices], self._pad_id)
        try:
            result = self._extractor(batch.to(self._extractor.device))
        except RuntimeError as error:
            if len(indices) > 1 or not is_out_of_memory(error):
                raise
            raise does_not_fit(f"a row of {len(self._samples[indices[0]].ids)} tokens", error) from error
        self.feature_ND[indices] = result.feature_BD.cpu().numpy()
        if result.loss_B is None:
            self._has_losses = False
        else:
            self.loss_N[indices] = result.loss_B.float().cpu().numpy()


def _table(
    ids: Sequence[str], unit_ND: Vector, norm_N: npt.NDArray[np.float64], loss_N: Vector, samples: Sequence[Encoded]
) -> pa.Table:
    dim = unit_ND.shape[1]
    flags_N = FLAG_TRUNCATED * np.array([sample.truncated for sample in samples], np.uint8)
    flags_N |= FLAG_NORM_OUTLIER * norm_outliers(norm_N).astype(np.uint8)
    columns = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(unit_ND.reshape(-1), pa.float32()), dim),
        pa.array(norm_N, pa.float32()),
        pa.array([len(sample.ids) for sample in samples], pa.int32()),
        pa.array([sum(sample.supervised) for sample in samples], pa.int32()),
        pa.array(loss_N, pa.float32(), from_pandas=True),  # null where the representation has no loss
        pa.array(flags_N, pa.uint8()),
    ]
    return pa.Table.from_arrays(columns, schema=feature_schema(dim))


def norm_outliers(norm_N: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Norms that are far off the median of their unit, on the scale of logarithms and of the median deviation."""
    if not len(norm_N):
        return np.zeros(0, bool)
    log_N = np.log(norm_N)
    off_N = np.abs(log_N - np.median(log_N))
    # Among equal norms a rounding error is no outlier.
    outliers: npt.NDArray[np.bool_] = off_N > np.maximum(_OUTLIER_DEVIATIONS * 1.4826 * np.median(off_N), 1e-6)
    return outliers


def _quarantine(row: Row, reason: str, detail: str) -> Quarantined:
    return Quarantined(id=row.id, stage=_STAGE, reason=reason, detail=detail, file="", row=-1)
