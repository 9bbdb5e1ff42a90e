"""What every representation has in common: a padded batch in, one vector a sample out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evoray.models.loss import Batch


@dataclass(frozen=True)
class FeatureBatch:
    """Vectors of one batch, before normalisation."""

    feature_BD: Tensor  # float32
    loss_B: Tensor | None  # mean over supervised tokens; None where the representation computes no loss


class Extractor(Protocol):
    """Vectors of the samples of a batch."""

    @property
    def dim(self) -> int:
        """Length D of a vector."""

    @property
    def device(self) -> torch.device:
        """Where batches have to be."""

    @property
    def flops_per_token(self) -> int:
        """Operations of the model's passes (see `models.flops`); of the sketches nothing is counted."""

    def __call__(self, batch: Batch) -> FeatureBatch:
        """Vectors of every sample of a batch."""
