"""What training and scoring are compared with. Frozen: ours may change, these may not.

Each is written as a good engineer writes it with transformers and peft alone, in one process with all cores, and none
uses evoray's attention, head or batching. Run as a script, this file measures the settings that each could have; the
defaults are the fastest that were seen on a processor (mixed rows):

- Training in float32: fused attention and passes of a single row on two threads, 4 % before passes of two rows of
  similar length and 6 % before eager attention; on one thread the three are level within 1 %. Larger passes lose up to
  a quarter: what they save in calls is less than what padding and the logits of all positions cost.
- In bfloat16, where the processor multiplies it (`BFLOAT16_FASTEST`): frozen weights in that type, eager attention and
  passes of two rows; fused attention is 14 % slower. Autocast over float32 weights casts them anew in every pass.
- Scoring: fused attention, and the output layer only where a token of the choice is predicted: 5 % faster than eager
  attention, 6 % than `logits_to_keep`, which keeps the same positions of all rows, 22 % than full logits.

    python benchmarks/training_baselines.py [--repeats 3] [--only training scoring] [--settings NAME ...] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from evoray.models.chat import Encoded, encode, encode_choices
from evoray.models.loading import load_tokenizer
from evoray.models.reference import resolve_model
from evoray.records import Message, Row

MODEL, MAX_TOKENS, STEP_ROWS, SEED = "smollm2", 512, 8, 0
IGNORED = -100
PARTS = ("training", "scoring")
ATTENTIONS = ("eager", "sdpa")

_TEXT = (
    "the water of a river is near this house and people who live there know that many small animals come to drink at"
    " night when light from town does not reach them while we should ask how long each one will stay before morning"
)


def clock() -> float:
    """Seconds by the wall; of the processor for a single thread, where what else runs then counts for little."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass(frozen=True)
class Setting:
    """How the plain loop trains."""

    attention: str = "sdpa"
    micro_rows: int = 1  # rows of one pass; a step accumulates over its passes
    sort: bool = True  # the rows of a step by length before they are cut into passes
    bfloat16: str = ""  # "", "autocast" (over float32 weights) or "weights" (frozen weights in it as well)


BFLOAT16_FASTEST = Setting("eager", 2, True, "weights")


@dataclass(frozen=True)
class Padded:
    """A right-padded batch; labels are IGNORED where a token carries no loss."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_mask.sum())

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return int((self.labels != IGNORED).sum())


def pad(samples: Sequence[Encoded], pad_id: int) -> Padded:
    """Pad to the longest of the samples, as the usual collator does."""
    longest = max(len(sample.ids) for sample in samples)
    shape = len(samples), longest
    batch = Padded(torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED))
    for row, sample in enumerate(samples):
        ids, length = torch.tensor(sample.ids), len(sample.ids)
        batch.input_ids[row, :length] = ids
        batch.attention_mask[row, :length] = 1
        batch.labels[row, :length] = torch.where(torch.tensor(sample.supervised), ids, IGNORED)
    return batch


def padded_batches(samples: Sequence[Encoded], rows: int, pad_id: int, seed: int) -> list[Padded]:
    """Batches of a fixed number of rows in random order: what sequence packing is compared with."""
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    return [pad([samples[i] for i in order[start : start + rows]], pad_id) for start in range(0, len(order), rows)]


class PlainTraining:
    """LoRA of rank 8 on all linear layers, AdamW, and the model's own loss over full logits.

    A step's loss is the mean over its supervised tokens, however it is cut into passes.
    """

    def __init__(self, setting: Setting | None = None, model: str = MODEL, rate: float = 5e-4) -> None:
        self.setting = setting or Setting()
        self.pad_id = int(load_tokenizer(model).pad_token_id)
        dtype = torch.bfloat16 if self.setting.bfloat16 == "weights" else torch.float32
        base = plain_model(model, self.setting.attention, dtype)
        torch.manual_seed(SEED)
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(base, adapter).train()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, fused=True)

    def train(self, samples: Sequence[Encoded], plan: Sequence[Sequence[int]]) -> tuple[int, float]:
        """Train the steps of a plan, each given as places in `samples`: unpadded tokens and seconds."""
        began = clock()
        tokens = sum(self.step(self.passes([samples[place] for place in places])) for places in plan)
        return tokens, clock() - began

    def passes(self, rows: Sequence[Encoded]) -> list[Padded]:
        """A step's rows as its padded passes."""
        if self.setting.sort:
            rows = sorted(rows, key=lambda row: len(row.ids))
        size = self.setting.micro_rows
        return [pad(rows[start : start + size], self.pad_id) for start in range(0, len(rows), size)]

    def step(self, batches: Sequence[Padded]) -> int:
        """One optimiser step over given passes; its unpadded tokens."""
        supervised = sum(batch.supervised for batch in batches)
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bool(self.setting.bfloat16)):
                loss = self.model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    labels=batch.labels,
                    num_items_in_batch=supervised,
                    use_cache=False,
                ).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(batch.tokens for batch in batches)


class PlainScoring:
    """Log-likelihoods of whole sequences from scratch: prompt and choice together, nothing shared between choices."""

    def __init__(self, attention: str = "sdpa", head: str = "gathered", model: str = MODEL) -> None:
        self.head = head
        self.pad_id = int(load_tokenizer(model).pad_token_id)
        self.model = plain_model(model, attention, torch.float32).eval()

    @torch.inference_mode()
    def score(self, sequences: Sequence[Encoded], token_budget: int = 2048) -> list[float]:
        """Sum over each sequence's supervised tokens, in nats, in the order given."""
        sums = [0.0] * len(sequences)
        for places in sorted_batches([len(one.ids) for one in sequences], token_budget):
            found = self._sums(pad([sequences[place] for place in places], self.pad_id))
            for place, value in zip(places, found, strict=True):
                sums[place] = value
        return sums

    def _sums(self, batch: Padded) -> list[float]:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        labels = batch.labels[:, 1:]
        predicts = labels != IGNORED
        if self.head == "gathered":
            hidden = self.model.model(**inputs).last_hidden_state[:, :-1]
            logits = self.model.lm_head(hidden[predicts])
        else:
            first = int(predicts.any(0).nonzero()[0]) if self.head == "kept" else 0
            kept = self.model(**inputs, logits_to_keep=batch.input_ids.shape[1] - first).logits[:, :-1]
            logits = kept[predicts[:, first:]]
        losses = torch.nn.functional.cross_entropy(logits, labels[predicts], reduction="none")
        return [-float(part.sum()) for part in torch.split(losses, predicts.sum(1).tolist())]


def plain_model(reference: str, attention: str, dtype: torch.dtype) -> Any:
    """The model as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(resolve_model(reference), dtype=dtype, attn_implementation=attention)


def sorted_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Places from the longest on, as many together as fit a budget of padded tokens."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= budget:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def mixed_rows(count: int, seed: int) -> list[Row]:
    """Made-up rows of 20 to 400 words (a token each, beside the chat template's), log-normal around 90."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(generator.normal(4.5, 0.8, count)).astype(int).clip(20, 400)
    return [
        Row(
            id=f"mixed-{index}",
            messages=(
                Message("user", _text(generator, length // 2)),
                Message("assistant", _text(generator, length - length // 2)),
            ),
        )
        for index, length in enumerate(lengths.tolist())
    ]


def choice_rows(count: int, seed: int) -> list[Row]:
    """Made-up questions with four choices of 3 to 12 words; prompts have 60 to 160 tokens, the template's included."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        asked = _text(generator, int(generator.integers(30, 127)))
        choices = tuple(_text(generator, int(generator.integers(3, 13))) for _ in range(4))
        answer = choices[int(generator.integers(4))]
        messages = (Message("user", asked), Message("assistant", answer))
        rows.append(Row(id=f"choice-{index}", messages=messages, choices=choices, answer=answer))
    return rows


def _text(generator: np.random.Generator, words: int) -> str:
    return " ".join(generator.choice(_TEXT.split(), words).tolist())


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


TRAINING = {
    f"{attention}_{rows}{'_sorted' if sort else ''}": Setting(attention, rows, sort)
    for attention in ATTENTIONS
    for rows in (1, 2, 4, 8)
    for sort in (False, True)
    if not (sort and rows in (1, 8))  # a pass of one row, or of them all, has no order
}
BFLOAT16 = {
    f"{attention}_{rows}_{kind}": Setting(attention, rows, True, kind)
    for kind in ("autocast", "weights")
    for attention in ATTENTIONS
    for rows in (1, 2, 4, 8)
}
SCORING = {
    f"{attention}_{head}": (attention, head) for attention in ATTENTIONS for head in ("full", "kept", "gathered")
}


def training_trials(repeats: int, names: Sequence[str]) -> dict[str, float]:
    """Unpadded tokens a second of each setting: medians over steps that all settings train in turn."""
    samples = encode(mixed_rows(STEP_ROWS * (repeats + 1), SEED), load_tokenizer(MODEL), MAX_TOKENS)
    settings = TRAINING | (BFLOAT16 if multiplies_bfloat16() else {})
    settings = {name: settings[name] for name in names or settings}
    kinds = {(setting.attention, setting.bfloat16): setting for setting in settings.values()}
    loops = {kind: PlainTraining(setting) for kind, setting in kinds.items()}

    def once(name: str, turn: int) -> float:
        setting = settings[name]
        loop = loops[setting.attention, setting.bfloat16]
        loop.setting = setting
        tokens, seconds = loop.train(samples, [range(turn * STEP_ROWS, (turn + 1) * STEP_ROWS)])
        return tokens / seconds

    return _interleaved(list(settings), once, repeats)


def scoring_trials(repeats: int) -> dict[str, float]:
    """Unpadded tokens a second of each way to score."""
    tokenizer = load_tokenizer(MODEL)
    scorers = {attention: PlainScoring(attention) for attention in ATTENTIONS}
    blocks = [
        [one for row in choice_rows(4, SEED + block) for one in encode_choices(row, tokenizer, MAX_TOKENS)]
        for block in range(repeats + 1)
    ]

    def once(name: str, turn: int) -> float:
        attention, head = SCORING[name]
        scorer = scorers[attention]
        scorer.head = head
        began = clock()
        scorer.score(blocks[turn])
        return sum(len(one.ids) for one in blocks[turn]) / (clock() - began)

    return _interleaved(list(SCORING), once, repeats)


def _interleaved(names: Sequence[str], once: Callable[[str, int], float], repeats: int) -> dict[str, float]:
    """Median rate of each contender; the first turn is not counted, and no contender is always first."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        start = turn * len(names) // (repeats + 1)
        for name in (*names[start:], *names[:start]):
            rates[name].append(once(name, turn))
            print(f"{name}: {rates[name][-1]:.0f} tokens/s", file=sys.stderr)
    found = {name: median(rate[1:]) for name, rate in rates.items()}
    for name, rate in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{name:>24}  {rate:8.1f} tokens/s", file=sys.stderr)
    return found


def main() -> None:
    """Measure the settings, print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--settings", nargs="*", default=[], help="of training, as its table names them: all")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts: dict[str, Any] = {}
    if "training" in options.only:
        facts["training"] = training_trials(options.repeats, options.settings)
    if "scoring" in options.only:
        facts["scoring"] = scoring_trials(options.repeats)
    print(json.dumps(facts | {"threads": options.threads, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
