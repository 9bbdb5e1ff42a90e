"""Representations beside gradients, and gradients at several checkpoints, against what they are defined as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, BertTokenizerFast

from evoray.config import FeatureConfig, WarmupConfig
from evoray.errors import ModelError
from evoray.features.representations import open_featuriser
from evoray.models.chat import encode
from evoray.models.loading import load_tokenizer
from evoray.training.warmup import warm_up
from tests.training.plain import tiny_adapter, tiny_rows

SETTINGS = {"max_tokens": 96, "precision": "float32", "batch_tokens": 256, "dim": 64}


def features(model: Path, adapters: list[str], weights: list[float], candidates: bool = True, **config: Any) -> Any:
    settings = FeatureConfig(**{**SETTINGS, **config})
    featuriser = open_featuriser(settings, str(model), adapters, weights, 3, candidates=candidates)
    table = featuriser(tiny_rows(6)).table
    assert table.num_rows == 6
    return np.array(table["feature"].to_pylist()), np.array(table["norm"].to_pylist())


@pytest.fixture(scope="module")
def checkpoints(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("warmup")
    config = WarmupConfig(rows=8, batch_size=4, checkpoints=2, learning_rate=2e-2, threads=1)
    warm_up(
        tiny_adapter(tiny_model_dir), load_tokenizer(str(tiny_model_dir)), tiny_rows(8), folder, config, seed=2,
        max_tokens=96, batch_tokens=256, precision=None, progress=lambda _done, _total: None,
    )  # fmt: skip
    return [str(folder / "checkpoint-1"), str(folder / "checkpoint-2")]


@pytest.mark.parametrize("representation", ["rds", "hidden_mean"])
def test_hidden_states_are_pooled_over_prompt_and_response(tiny_model_dir: Path, representation: str) -> None:
    found, norms = features(tiny_model_dir, [], [], representation=representation)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for row, sample in enumerate(encode(tiny_rows(6), load_tokenizer(str(tiny_model_dir)), 96)):
        hidden = model(input_ids=torch.tensor([sample.ids]), output_hidden_states=True).hidden_states[-1][0]
        count = len(sample.ids)
        weight = torch.arange(1, count + 1).float() if representation == "rds" else torch.ones(count)
        expected = (weight / weight.sum()) @ hidden
        np.testing.assert_allclose(found[row] * norms[row], expected.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_an_encoder_pools_the_text_of_all_turns(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789"])
    )
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=24)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=24)  # fmt: skip
    torch.manual_seed(0)
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found, _ = features(tmp_path, [], [], representation="embed")
    for row, sample in enumerate(tiny_rows(6)):
        text = "\n".join(message.content for message in sample.messages)
        hidden = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0]
        pooled = hidden.mean(0).detach().numpy()
        np.testing.assert_allclose(found[row], pooled / np.linalg.norm(pooled), rtol=1e-4, atol=1e-6)


def test_checkpoints_add_up_their_cosines_by_weight(tiny_model_dir: Path, checkpoints: list[str]) -> None:
    first, _ = features(tiny_model_dir, checkpoints[:1], [1.0])
    last, _ = features(tiny_model_dir, checkpoints[1:], [1.0])
    assert np.abs(first @ first.T - last @ last.T).max() > 1e-2, "two checkpoints that differ"
    both, _ = features(tiny_model_dir, checkpoints, [3.0, 1.0])
    assert both.shape == (6, 128)
    np.testing.assert_allclose(both @ both.T, 0.75 * first @ first.T + 0.25 * last @ last.T, atol=1e-5)


def test_less_transforms_candidates_and_leaves_targets_raw(tiny_model_dir: Path, checkpoints: list[str]) -> None:
    raw, _ = features(tiny_model_dir, checkpoints[1:], [1.0], preconditioning="none")
    target, _ = features(tiny_model_dir, checkpoints[1:], [1.0], candidates=False, preconditioning="less")
    candidate, _ = features(tiny_model_dir, checkpoints[1:], [1.0], preconditioning="less")
    np.testing.assert_array_equal(target, raw)
    assert np.abs(candidate - raw).max() > 1e-2


def test_base_weights_need_no_adapter(tiny_model_dir: Path) -> None:
    found, _ = features(tiny_model_dir, [], [], parameters="base", sketch="kronecker", preconditioning="none")
    assert found.shape == (6, 64)


def test_an_adapter_without_moments_is_refused_where_they_are_needed(tiny_model_dir: Path, tmp_path: Path) -> None:
    tiny_adapter(tiny_model_dir).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="without moments"):
        features(tiny_model_dir, [str(tmp_path)], [1.0])
    features(tiny_model_dir, [str(tmp_path)], [1.0], preconditioning="none")
