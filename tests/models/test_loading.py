"""Loading: clear errors for what is missing, adapters fixed by their seed, frozen weights in the autocast type."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evoray.config import LoraConfig
from evoray.errors import ModelError
from evoray.models.folder import Folder
from evoray.models.loading import (
    autocast_dtype,
    cast_frozen,
    load_adapter,
    load_for_inference,
    load_model,
    load_tokenizer,
    new_adapter,
)
from evoray.models.reference import identified, resolve_model
from evoray.storage import Storage
from tests.tiny import build_tiny_model, tiny_tokenizer


def test_a_directory_that_is_not_there_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such directory"):
        resolve_model(str(tmp_path / "nothing"))


def test_equal_adapters_are_equal_files_in_every_process(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Else features that runs share would be computed again, for an adapter that is the same."""
    code = """
import sys
from pathlib import Path
from evoray.config import LoraConfig
from evoray.models.loading import load_model, new_adapter, write_trained
write_trained(new_adapter(load_model(sys.argv[1]), LoraConfig(rank=2), 0), Path(sys.argv[2]))
"""
    for salt in ("1", "2"):
        command = [sys.executable, "-c", code, str(tiny_model_dir), str(tmp_path / salt)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": salt})
    one, other = (Folder.at(str(tmp_path / salt)) for salt in ("1", "2"))
    assert one.fingerprint() == other.fingerprint()
    assert load_adapter(load_model(str(tiny_model_dir)), one.fetch()).peft_config["default"].r == 2


def test_what_a_model_directory_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="the directory has no tokenizer and no weights as safetensors"):
        identified(str(tmp_path))


def test_an_adapter_without_safetensors_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(ModelError, match="without adapter_model"):
        load_adapter(load_model(str(tiny_model_dir)), str(tmp_path))


def test_an_adapter_of_another_shape_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    wide = build_tiny_model(tmp_path / "wide", hidden_size=64)
    new_adapter(load_model(str(wide)), LoraConfig(rank=2), 0).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="model of this shape"):
        load_adapter(load_model(str(tiny_model_dir)), str(tmp_path / "adapter"))


def test_an_adapter_of_a_deeper_model_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    new_adapter(load_model(str(tiny_model_dir)), LoraConfig(), seed=0).save_pretrained(tmp_path / "adapter")
    other = build_tiny_model(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(ModelError, match="weights too many and"):
        load_adapter(load_model(str(other)), str(tmp_path / "adapter"))


def test_a_fresh_adapter_depends_on_its_seed_alone(tiny_model_dir: Path) -> None:
    def weights(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        adapted = new_adapter(load_model(str(tiny_model_dir)), LoraConfig(rank=2), seed)
        return torch.cat([p.flatten() for name, p in adapted.named_parameters() if "lora_A" in name])

    assert torch.equal(weights(3, noise=0), weights(3, noise=1))
    assert not torch.equal(weights(3, noise=0), weights(4, noise=0))


def test_frozen_weights_in_the_autocast_type_give_the_logits_that_autocast_gives(tiny_model_dir: Path) -> None:
    adapted = new_adapter(load_model(str(tiny_model_dir)), LoraConfig(rank=2), 0).eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = adapted(input_ids=ids).logits
        found = cast_frozen(adapted, torch.bfloat16)(input_ids=ids).logits
    assert torch.equal(expected, found)
    assert adapted.get_input_embeddings().weight.dtype == torch.float32
    assert all(p.dtype == torch.float32 for name, p in adapted.named_parameters() if "lora_" in name)


def test_a_merged_adapter_scores_as_the_adapter_does(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapted = new_adapter(load_model(str(tiny_model_dir)), LoraConfig(rank=2), 0).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path)
    ids = torch.arange(20, 60)[None]
    merged = load_for_inference(str(tiny_model_dir), str(tmp_path), None, merge=True)
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_precision_float32_is_no_autocast() -> None:
    assert autocast_dtype("float32") is None
    assert autocast_dtype("bfloat16") is torch.bfloat16


def test_a_model_is_known_by_its_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    same = build_tiny_model(tmp_path / "same")
    other = build_tiny_model(tmp_path / "other", seed=1)
    assert identified(str(tiny_model_dir)).identity == identified(str(same)).identity != identified(str(other)).identity
    assert load_tokenizer(str(same)).pad_token_id is not None


def test_what_was_trained_on_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "training.json").write_text('{"model": "fingerprint of one"}')
    folder = Folder.at(str(tmp_path / "adapter"))
    folder.check_base("one", "fingerprint of one")
    with pytest.raises(ModelError, match="trained on another model than other"):
        folder.check_base("other", "fingerprint of other")


def test_a_tokenizer_that_cannot_fill_up_a_batch_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(build_tiny_model(tmp_path))
    with pytest.raises(ModelError, match="padding and end-of-text"):
        load_tokenizer(str(tmp_path))


def test_what_a_training_leaves_takes_the_place_of_all_that_was_there(tmp_path: Path) -> None:
    """A record of other weights, or their files beside the new ones, would name or load the old model."""
    folder, new = Folder(storage=Storage(tmp_path / "out"), prefix="model"), tmp_path / "new"
    new.mkdir()
    (new / "model-00001-of-00002.safetensors").write_bytes(b"new")
    for name in ("model.safetensors", "training.json"):
        folder.storage.write(f"model/{name}", b"old")
    folder.replace_by(new, "training.json")
    assert list(folder.storage.keys("model")) == ["model/model-00001-of-00002.safetensors"]
