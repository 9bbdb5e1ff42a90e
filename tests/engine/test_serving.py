"""What is exported for serving computes what the adapted model computes, and loads without evoray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evoray import export_model
from evoray.errors import ConfigError, ModelError
from evoray.models.loading import load_model, load_tokenizer
from evoray.models.reference import identified
from tests.commands import Command
from tests.tiny import build_tiny_model
from tests.training.plain import tiny_adapter


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    tiny_adapter(tiny_model_dir).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    ids = torch.tensor([load_tokenizer(str(folder))("say it").input_ids])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def test_the_merged_model_is_the_adapted_one(tiny_model_dir: Path, adapter: Path, tmp_path: Path) -> None:
    written = export_model(str(adapter), str(tmp_path / "out"), model=str(tiny_model_dir))
    served = AutoModelForCausalLM.from_pretrained(written.path)
    expected = logits(tiny_adapter(tiny_model_dir), tiny_model_dir)
    torch.testing.assert_close(logits(served, tiny_model_dir), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(load_model(str(tiny_model_dir)), tiny_model_dir), expected, atol=1e-3)
    assert (
        AutoTokenizer.from_pretrained(written.path).chat_template == load_tokenizer(str(tiny_model_dir)).chat_template
    )


def test_the_best_round_of_a_run_is_exported(
    evoray: Command, tiny_model_dir: Path, adapter: Path, tmp_path: Path
) -> None:
    best = tmp_path / "run" / "best"
    best.parent.mkdir()
    adapter.rename(best)
    (best / "best.json").write_text(json.dumps({"round": 2, "model": str(tiny_model_dir)}))
    shown = evoray.shown("export", tmp_path / "run", "--form", "model", "--out", tmp_path / "out")
    assert shown == {"exported": str(tmp_path / "out"), "model": str(tiny_model_dir), "trained": str(best)}
    (best / "best.json").write_text(json.dumps({"round": 0, "model": str(tiny_model_dir)}))
    with pytest.raises(ConfigError, match="no round was better"):
        export_model(str(tmp_path / "run"), str(tmp_path / "none"))


def test_an_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", hidden_size=48)
    with pytest.raises(ModelError, match="trained on"):
        export_model(str(adapter), str(tmp_path / "out"), model=str(other))


def test_what_was_trained_on_another_model_of_the_same_shape_is_refused(
    tiny_model_dir: Path, adapter: Path, tmp_path: Path
) -> None:
    (adapter / "training.json").write_text(json.dumps({"model": identified(str(tiny_model_dir)).identity}))
    export_model(str(adapter), str(tmp_path / "out"), model=str(tiny_model_dir))
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="trained on another model"):
        export_model(str(adapter), str(tmp_path / "none"), model=str(other))


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"best/, adapter_config\.json"):
        export_model(str(tmp_path), str(tmp_path / "out"))
