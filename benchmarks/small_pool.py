"""A pool of any number of short rows, a task for it, and a small transformer that has their words: all seeded.

Rows are questions of arithmetic and of words in four shapes, no two alike, so that none is dropped as a duplicate. The
model is a Llama of 0.85 million weights beside its embeddings, with a byte-pair tokenizer of 1,024 entries that is
trained on such rows. It has learnt nothing: what a row costs does not depend on that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "kayak", "larch")
_BLOCK = 65_536
_VOCABULARY, _TAUGHT = 1024, 20_000

SHAPES = ("sum", "difference", "larger", "words")


def row(shape: str, first: int, second: int) -> tuple[str, str]:
    """A question of two numbers, and its answer."""
    if shape == "sum":
        return f"What is {first} plus {second}?", str(first + second)
    if shape == "difference":
        return f"Take {second} from {first}.", str(first - second)
    if shape == "larger":
        return f"Which is larger, {first} or {second}?", str(max(first, second))
    words = [_WORDS[number % len(_WORDS)] for number in (first, second, first // 12)]
    return f"Put in order: {', '.join(words)} {first} {second}.", ", ".join(sorted(words))


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """So many different rows: the numbers of one are those of no other."""
    rng = np.random.default_rng(seed)
    for first in range(0, count, _BLOCK):
        seconds = rng.integers(0, 1000, min(_BLOCK, count - first))
        for place, second in enumerate(seconds.tolist(), first):
            shape = SHAPES[place % len(SHAPES)]
            question, answer = row(shape, 10_000 + place, second)
            yield {"instruction": question, "output": answer, "source": shape}


def write_pool(path: Path, count: int) -> None:
    """A Parquet file of so many rows; one that is there already is left as it is."""
    if path.is_file():
        return
    schema = pa.schema([(name, pa.string()) for name in ("instruction", "output", "source")])
    partial = path.with_suffix(".partial")
    with pq.ParquetWriter(partial, schema) as writer:
        block: list[dict[str, str]] = []
        for one in rows(count):
            block.append(one)
            if len(block) == _BLOCK // 8:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema))
    partial.rename(path)


def write_target(folder: Path, count: int) -> None:
    """A task of one shape of the pool's: half of it is aimed at, by the other half settings are chosen."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "dev.jsonl").open("w", encoding="utf-8") as stream:
        for place in range(count):
            question, answer = row("larger", place, 7 * place + 1)
            stream.write(json.dumps({"instruction": question, "output": answer}) + "\n")


def write_model(folder: Path) -> None:
    """The model and its tokenizer; a folder that is there already is left as it is."""
    if (folder / "config.json").is_file():
        return
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=_SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((f"{one['instruction']} {one['output']}" for one in rows(_TAUGHT, seed=1)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=_SPECIAL[2:]
    )
    fast.chat_template = _TEMPLATE
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
