"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import build_tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama and its byte-level tokenizer, built once."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))
