"""Means and differences with percentile bootstrap intervals.

Rows are resampled with replacement; a comparison of two models resamples the *pairs*, since both answered the same
rows. Where each model was trained under several seeds, seeds and rows are resampled independently of one another, the
two-way scheme for crossed random effects (Owen, "The pigeonhole bootstrap", 2007), so that the interval also carries
the spread between seeds. NaN marks a row without a value and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evoray.errors import StageError
from evoray.records import Comparison, Score

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float, float]

_CHUNK = 1 << 20  # resampled indices held at a time


def bootstrap_mean(values: npt.ArrayLike, seed: int, n: int = 2000, level: float = 0.95) -> Interval:
    """Mean of `values` [R] with a percentile interval from `n` resamples: (mean, low, high).

    Raises StageError where no value is left after NaN, or one is infinite.
    """
    kept_R = _finite(np.asarray(values, dtype=np.float64))
    rng = np.random.default_rng(seed)
    rows = len(kept_R)
    means = [kept_R[rng.integers(rows, size=(count, rows))].mean(axis=1) for count in _chunks(n, rows)]
    return _interval(float(kept_R.mean()), np.concatenate(means), level)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, seed: int, n: int = 2000, level: float = 0.95) -> Interval:
    """Mean of a - b over the same rows [R], with interval: (difference, low, high). Rows with a NaN are left out."""
    a_R, b_R = _aligned(a, b, dimensions=1)
    return bootstrap_mean(a_R - b_R, seed, n, level)


def paired_difference_seeds(
    a_SR: npt.ArrayLike, b_SR: npt.ArrayLike, seed: int, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of a - b over S training seeds and R rows, both resampled: (difference, low, high).

    Seed s of `a_SR` is paired with seed s of `b_SR`. A row with a NaN under any seed is left out.
    """
    first_SR, second_SR = _aligned(a_SR, b_SR, dimensions=2)
    difference_SR = first_SR - second_SR
    difference_SR = difference_SR[:, ~np.isnan(difference_SR).any(axis=0)]
    _finite(difference_SR.ravel())
    seeds, rows = difference_SR.shape
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    for count in _chunks(n, max(rows, seeds)):
        seed_weight_nS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
        row_weight_nR = rng.multinomial(rows, np.full(rows, 1 / rows), size=count) / rows
        means.append(np.einsum("ns,nr,sr->n", seed_weight_nS, row_weight_nR, difference_SR, optimize=True))
    return _interval(float(difference_SR.mean()), np.concatenate(means), level)


def summarise(losses: Sequence[float], correct: Sequence[float | None], seed: int = 0) -> Score:
    """One model's row of the results table: mean loss and accuracy with 95% intervals.

    losses, correct: of the same rows [R]; NaN is a row without loss, None one without verdict. A verdict is a number
    from 0 to 1. `rows` counts all rows; `facts` says how many had no loss or no verdict, where there were such.
    Raises StageError where no row has a loss.
    """
    loss, loss_low, loss_high = bootstrap_mean(losses, seed)
    judged = [float(verdict) for verdict in correct if verdict is not None]
    accuracy: tuple[float | None, float | None, float | None] = (None, None, None)
    if judged:
        accuracy = bootstrap_mean(judged, seed)
    without_loss = int(np.isnan(np.asarray(losses, dtype=np.float64)).sum())
    facts: dict[str, str] = {}
    if without_loss:
        facts["rows without loss"] = str(without_loss)
    if judged and len(judged) < len(losses):
        facts["rows without verdict"] = str(len(losses) - len(judged))
    return Score(
        loss=loss,
        loss_low=loss_low,
        loss_high=loss_high,
        accuracy=accuracy[0],
        accuracy_low=accuracy[1],
        accuracy_high=accuracy[2],
        rows=len(losses),
        facts=facts or None,
    )


def named(interval: Interval) -> dict[str, float]:
    """An interval by the names of its parts, for records."""
    return dict(zip(("value", "low", "high"), map(float, interval), strict=True))


def compare_scores(
    losses: Sequence[float],
    correct: Sequence[float | None],
    against_losses: Sequence[float],
    against_correct: Sequence[float | None],
    seed: int = 0,
) -> Comparison:
    """Two models' scores of the same rows [R], as for `summarise`, and the paired differences first - second.

    Raises StageError where the rows are not as many, and where none has a loss under both.
    """
    loss, loss_low, loss_high = paired_difference(losses, against_losses, seed)
    verdicts, against_verdicts = _verdicts(correct), _verdicts(against_correct)
    judged = int((~np.isnan(verdicts - against_verdicts)).sum())
    accuracy: tuple[float | None, float | None, float | None] = (None, None, None)
    if judged:
        accuracy = paired_difference(verdicts, against_verdicts, seed)
    return Comparison(
        model=summarise(losses, correct, seed),
        against=summarise(against_losses, against_correct, seed),
        loss=loss,
        loss_low=loss_low,
        loss_high=loss_high,
        accuracy=accuracy[0],
        accuracy_low=accuracy[1],
        accuracy_high=accuracy[2],
        rows=int((~np.isnan(np.subtract(losses, against_losses))).sum()),
        verdicts=judged,
    )


def _verdicts(correct: Sequence[float | None]) -> Floats:
    return np.array([np.nan if verdict is None else verdict for verdict in correct], dtype=np.float64)


def _chunks(n: int, width: int) -> list[int]:
    """Split n resamples of `width` indices so that a chunk stays small."""
    size = max(1, _CHUNK // width)
    return [min(size, n - start) for start in range(0, n, size)]


def _interval(estimate: float, resampled_n: Floats, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(resampled_n, [tail, 1 - tail])
    return estimate, float(low), float(high)


def _finite(values: Floats) -> Floats:
    kept: Floats = values[~np.isnan(values)]
    if not len(kept) or np.isinf(kept).any():
        raise StageError(
            f"{len(values)} values, {len(kept)} of them numbers, {int(np.isinf(kept).sum())} infinite",
            "at least one number and none infinite",
            "look at the rows of this split: they may have no supervised token, or the model diverged",
        )
    return kept


def _aligned(a: npt.ArrayLike, b: npt.ArrayLike, dimensions: int) -> tuple[Floats, Floats]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != dimensions:
        raise StageError(
            f"values of shapes {first.shape} and {second.shape}",
            f"two equal shapes of {dimensions} dimensions: the same rows in the same order",
            "score both models on the same split",
        )
    return first, second
