"""The representations by name: what turns rows into vectors, built from a config on the worker that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from evoray.config import FeatureConfig, Preconditioning
from evoray.errors import ModelError
from evoray.features.base_weights import BaseWeightFeatures
from evoray.features.checkpoints import WeightedCheckpoints
from evoray.features.gradient import GradientFeatures
from evoray.features.hidden import HiddenFeatures
from evoray.features.protocol import Extractor
from evoray.features.rows import FeatureTable, featurise_rows
from evoray.features.uncertainty import UncertaintyFeatures
from evoray.models.chat import Encoded, encode, encode_text
from evoray.models.loading import autocast_dtype, load_encoder, load_for_inference, load_tokenizer
from evoray.models.moments import Moments, load_moments
from evoray.records import Row


@dataclass(frozen=True, kw_only=True)
class Featuriser:
    """A representation with its tokenizer: rows in, a feature table out."""

    extractor: Extractor
    encode: Callable[[Sequence[Row]], list[Encoded]]
    pad_id: int
    batch_tokens: int

    def __call__(self, rows: Sequence[Row]) -> FeatureTable:
        return featurise_rows(rows, self.extractor, self.encode, pad_id=self.pad_id, batch_tokens=self.batch_tokens)


def open_featuriser(
    config: FeatureConfig, model: str, adapters: Sequence[str], weights: Sequence[float], seed: int, *, candidates: bool
) -> Featuriser:
    """Load the proxy and build the configured representation.

    adapters, weights: local folders of the proxy's checkpoints, in order, and what each counts; none where the
    representation needs no LoRA. candidates: the rows are of the pool and not of the target, which `less` treats
    differently. Raises ModelError where the model, an adapter or its moments do not serve.
    """
    tokenizer = load_tokenizer(model)
    render = encode_text if config.representation == "embed" else encode
    return Featuriser(
        extractor=_extractor(config, model, adapters, weights, seed, candidates),
        encode=partial(render, tokenizer=tokenizer, max_tokens=config.max_tokens),
        pad_id=int(tokenizer.pad_token_id),
        batch_tokens=config.pass_tokens,
    )


def _extractor(
    config: FeatureConfig, model: str, adapters: Sequence[str], weights: Sequence[float], seed: int, candidates: bool
) -> Extractor:
    precision = autocast_dtype(config.precision)
    if config.uses_lora:
        side: Preconditioning = (
            "none" if config.preconditioning == "less" and not candidates else config.preconditioning
        )
        found = [_gradients(config, model, adapter, seed, side, precision) for adapter in adapters]
        return found[0] if len(found) == 1 else WeightedCheckpoints(found, weights)
    if config.representation == "embed":
        return HiddenFeatures(load_encoder(model), "mean", precision)
    loaded: Any = load_for_inference(model, adapters[-1] if adapters else None, precision, merge=True)
    if config.representation in ("auto", "gradient"):  # undecided: gradients, as for `uses_lora`
        return BaseWeightFeatures(loaded, dim=config.dim, seed=seed, precision=precision)
    if config.representation == "uncertainty":
        return UncertaintyFeatures(loaded, precision)
    return HiddenFeatures(loaded.base_model, "position" if config.representation == "rds" else "mean", precision)


def _gradients(
    config: FeatureConfig, model: str, adapter: str, seed: int, side: Preconditioning, precision: torch.dtype | None
) -> GradientFeatures:
    return GradientFeatures(
        load_for_inference(model, adapter, precision),
        dim=config.dim,
        seed=seed,
        sketch=config.sketch,
        preconditioning=side,
        moments=None if side == "none" else _moments(adapter, side),
        precision=precision,
    )


def _moments(adapter: str, preconditioning: Preconditioning) -> Moments:
    moments = load_moments(adapter)
    if moments is None:
        raise ModelError(
            f"adapter {adapter} without moments.safetensors, and features.preconditioning = {preconditioning}",
            "an adapter that evoray warmed up or trained",
            "leave features.adapter out, or set features.preconditioning: adam (which estimates them) or none",
        )
    return moments
