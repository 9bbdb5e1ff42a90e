"""Gradients at several checkpoints of one training as one vector.

With unit rows x_t at checkpoint t and weights eta_t that sum to 1, the concatenation of sqrt(eta_t) x_t has the inner
product sum_t eta_t cos_t: the influence over the whole training that TracIn and LESS add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evoray.features.protocol import Extractor, FeatureBatch
from evoray.models.loss import Batch


class WeightedCheckpoints:
    """Extractors of one model's checkpoints, in order, each with the weight of its part of the training."""

    def __init__(self, extractors: Sequence[Extractor], weights: Sequence[float]) -> None:
        total = sum(weights)
        self._extractors = list(extractors)
        self._shares = [weight / total for weight in weights]
        self.dim = sum(extractor.dim for extractor in extractors)
        self.device = extractors[0].device
        self.flops_per_token = sum(extractor.flops_per_token for extractor in extractors)

    def __call__(self, batch: Batch) -> FeatureBatch:
        """Rows whose norm is the weighted mean of the checkpoints' norms; the loss is the last checkpoint's."""
        found = [extractor(batch) for extractor in self._extractors]
        norms = [one.feature_BD.norm(dim=1, keepdim=True) for one in found]
        mean_B1 = sum(share * norm for share, norm in zip(self._shares, norms, strict=True))
        parts = [
            one.feature_BD * (share**0.5 * mean_B1 / norm)
            for one, norm, share in zip(found, norms, self._shares, strict=True)
        ]
        return FeatureBatch(torch.cat(parts, 1), found[-1].loss_B)
