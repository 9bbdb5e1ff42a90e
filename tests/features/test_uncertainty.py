from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from evoray.config import FeatureConfig
from evoray.errors import ModelError
from evoray.features import uncertainty
from evoray.features.representations import open_featuriser
from evoray.features.uncertainty import UncertaintyFeatures, sureness
from evoray.models.chat import encode
from evoray.models.loading import load_tokenizer
from evoray.models.loss import collate
from tests.training.plain import tiny_rows


def expected(model: Any, ids: Sequence[int]) -> list[float]:
    """The three means of one row alone, of all its logits at once, in fp64."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([list(ids)])).logits[0, :-1].double()
    log_p_TV = torch.log_softmax(logits_TV, 1)
    sorted_TV = logits_TV.sort(dim=1, descending=True).values
    entropy_T = -(log_p_TV.exp() * log_p_TV).sum(1)
    return [float(one.mean()) for one in (entropy_T, sorted_TV[:, 0] - sorted_TV[:, 1], sorted_TV[:, 0])]


@dataclass(frozen=True)
class Sample:
    ids: Sequence[int]

    @property
    def supervised(self) -> Sequence[bool]:
        return [False] * len(self.ids)


def samples(lengths: Sequence[int], vocabulary: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(rng.integers(1, vocabulary, length).tolist()) for length in lengths]


@pytest.mark.parametrize("batch_tokens", [8, 200, 4096])
def test_the_three_are_means_over_prompt_and_response_whatever_the_batches(
    tiny_model_dir: Path, batch_tokens: int
) -> None:
    config = FeatureConfig(representation="uncertainty", max_tokens=96, precision="float32", batch_tokens=batch_tokens)
    featuriser = open_featuriser(config, str(tiny_model_dir), [], [], 3, candidates=True)
    table = featuriser(tiny_rows(6)).table
    found = np.array(table["feature"].to_pylist()) * np.array(table["norm"].to_pylist())[:, None]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    encoded = encode(tiny_rows(6), load_tokenizer(str(tiny_model_dir)), 96)
    assert any(not all(sample.supervised[1:]) for sample in encoded), "prompts that count, too"
    np.testing.assert_allclose(found, [expected(model, sample.ids) for sample in encoded], rtol=1e-5)
    assert table["loss"].null_count == 6


def soft_capped() -> Any:
    """Its logits pass through a soft cap behind the head."""
    config = Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, attn_implementation="eager",
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


def plain() -> Any:
    """Its body is called otherwise, and it has absolute positions."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64))


@pytest.mark.parametrize("build", [soft_capped, plain])
@pytest.mark.parametrize("height", [3, 1000])
def test_chunks_of_the_head_give_the_logits_of_the_whole_model(
    build: Any, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    model = build().eval()
    rows = samples([9, 30, 2, 17], 50)
    before = [expected(model, row.ids) for row in rows]
    monkeypatch.setattr(uncertainty, "_CHUNK_ENTRIES", 50 * height)
    seen: list[int] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].numel() // 16)
    )
    found = UncertaintyFeatures(model)(collate(rows, 0))
    handle.remove()
    assert found.loss_B is None
    assert sum(seen) == 8 + 29 + 1 + 16
    assert max(seen) <= height
    np.testing.assert_allclose(found.feature_BD.numpy(), before, rtol=1e-4, atol=1e-6)
    assert [expected(model, row.ids) for row in rows] == before, "the model is left as it was"


def test_padding_and_the_rows_beside_it_do_not_change_a_row(tiny_model_dir: Path) -> None:
    extractor = UncertaintyFeatures(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    rows = samples([40, 5, 12, 33, 2], 200)
    together = extractor(collate(rows, 0)).feature_BD
    other_padding = extractor(collate(rows, 7)).feature_BD
    alone = torch.cat([extractor(collate([row], 0)).feature_BD for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together, other_padding, rtol=0, atol=0)


def test_bfloat16_passes_come_near(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    rows = samples([40, 12], 200)
    exact = UncertaintyFeatures(model)(collate(rows, 0)).feature_BD
    rough = UncertaintyFeatures(model, torch.bfloat16)(collate(rows, 0)).feature_BD
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=5e-2, atol=5e-3)


def test_a_token_alone_predicts_nothing_and_says_so(tiny_model_dir: Path) -> None:
    extractor = UncertaintyFeatures(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    assert extractor(collate(samples([1], 200), 0)).feature_BD.isnan().all()
    mixed = extractor(collate(samples([1, 4], 200), 0)).feature_BD
    assert mixed[0].isnan().all()
    assert mixed[1].isfinite().all()


def test_sureness_has_its_closed_forms() -> None:
    alike, sure = torch.zeros(1, 8), torch.tensor([[3.0, *[-torch.inf] * 6, 1.0]])
    torch.testing.assert_close(sureness(alike), torch.tensor([[np.log(8.0), 0.0, 0.0]], dtype=torch.float32))
    p = 1 / (1 + np.exp(-2.0))
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    torch.testing.assert_close(sureness(sure.double()), torch.tensor([[entropy, 2.0, 3.0]], dtype=torch.float64))


def test_a_model_without_a_head_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="without output embeddings"):
        UncertaintyFeatures(AutoModelForCausalLM.from_pretrained(tiny_model_dir).model)
