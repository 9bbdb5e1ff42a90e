"""What a cluster's monitoring sees of the work: counters and gauges of the processes that do it.

Ray exports them on every node for Prometheus, each with `ray_` before its name. In a process that is not connected to
Ray nothing happens. Units are counted by the driver; what a training counts in its last seconds is lost, since Ray
exports every few seconds and not when a process ends. These are of the work, with steps that were done twice: results
have records of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from evoray.alignment.reduction import Partials

UNITS, ROWS, TOKENS, QUARANTINED = "evoray_units", "evoray_rows", "evoray_tokens", "evoray_quarantined_rows"
REDUCED = "evoray_reduced_bytes"
SINKHORN, UTILISATION, LOSS = "evoray_sinkhorn_error", "evoray_mfu", "evoray_training_loss"

#: What each says, and the tags that it has.
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    UNITS: ("Units of work that were committed.", ("stage",)),
    ROWS: ("Rows of these units, or of optimiser steps.", ("stage",)),
    TOKENS: ("Tokens that a model read or wrote for them.", ("stage",)),
    QUARANTINED: ("Rows that were set aside.", ("stage",)),
    REDUCED: ("Bytes of partial sums that the solver's driver merged.", ()),
}
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    SINKHORN: ("L1 marginal error of the solver's last potentials.", ()),
    UTILISATION: ("Model operations a second over the published peak of the GPU that did them.", ("stage",)),
    LOSS: ("Loss of the last optimiser step.", ("series",)),
}


def count(stage: str, *, units: int = 0, rows: int = 0, tokens: int = 0, quarantined: int = 0) -> None:
    """Work of a stage that is done."""
    for name, amount in ((UNITS, units), (ROWS, rows), (TOKENS, tokens), (QUARANTINED, quarantined)):
        _add(name, amount, stage=stage)


def utilised(stage: str, flops: float | None, seconds: float) -> None:
    """So many operations of a model took this GPU so long; nothing is said where they, or its peak, are not known."""
    peak = None if flops is None or not seconds > 0 else _peak()
    if flops is not None and peak is not None:
        _set(UTILISATION, flops / (seconds * peak), stage=stage)


def reduced(parts: Sequence[Partials]) -> None:
    """Partial sums that are about to be merged here."""
    _add(REDUCED, sum(array.nbytes for part in parts for arrays in part.nodes.values() for array in arrays))


def sinkhorn_error(error: float | None) -> None:
    """The marginal error of potentials; None: of a selection without any."""
    if error is not None:
        _set(SINKHORN, error)


def trained(series: str, measured: Mapping[str, float], rows: int, tokens: int, flops_per_token: float) -> None:
    """A step of the training with this name, or a look at its validate rows, of which nothing is said.

    rows, tokens: of all ranks; flops_per_token: what is this GPU's share of a token.
    """
    if "loss" in measured:
        count("train", rows=rows, tokens=tokens)
        _set(LOSS, measured["loss"], series=series)
        utilised("train", flops_per_token * measured["tokens_per_second"], 1.0)


def _add(name: str, amount: int, **tags: str) -> None:
    if amount > 0 and ray.is_initialized():  # Ray's counters refuse a zero
        _counter(name).inc(int(amount), tags=tags)


def _set(name: str, value: float, **tags: str) -> None:
    if ray.is_initialized():
        _gauge(name).set(float(value), tags=tags)


@cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    description, tags = COUNTERS[name]
    return Counter(name, description=description, tag_keys=tags)


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    description, tags = GAUGES[name]
    return Gauge(name, description=description, tag_keys=tags)


@cache
def _peak() -> float | None:
    """Of this process's GPU."""
    import torch

    from evoray.models.flops import peak_of

    return peak_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
