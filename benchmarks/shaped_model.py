"""A model of a known shape with random weights, and SmolLM2's tokenizer: what it costs is what the real one costs."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from evoray.models.loading import load_tokenizer

#: As their authors publish them.
SHAPES = {
    "qwen2.5-0.5b": {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen2.5-3b": {
        "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip


def write_shaped_model(shape: str, folder: Path, tokenizer: str) -> str:
    """The folder, with a model of that shape; one that is there already is left as it is."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[shape]))
        load_tokenizer(tokenizer).save_pretrained(folder)
        model.save_pretrained(folder)
    return str(folder)
