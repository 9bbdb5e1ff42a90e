"""What several tests of this folder use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from evoray.models.loading import load_model


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> PreTrainedModel:
    """As workers load it, with larger weights: those of the usual size predict almost evenly, with many near ties."""
    loaded = load_model(str(tiny_model_dir))
    with torch.no_grad():
        for weight in loaded.parameters():
            weight.mul_(4.0)
    return loaded
