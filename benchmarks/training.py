"""What do training and scoring cost, beside plain loops on the same cores?

`training_ratio`: unpadded tokens a second of the whole loop (Ray Train, two workers, DeepSpeed, packing) over a plain
PyTorch loop in one process with as many threads, block by block in turn. `packing`: a pass over packed rows beside one
over padded rows in random order, the same model and loss. `shared_prompt`: choices whose prompt is computed once a
question, beside each choice from scratch. `start_up`: seconds from launch to the end of the first step. The baselines
are in `training_baselines.py`. The last line printed is one JSON object; bare keys are float32.

    python benchmarks/training.py [--blocks 3] [--steps 4] [--only ratio packing shared_prompt start_up]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from training_baselines import (
    BFLOAT16_FASTEST,
    MAX_TOKENS,
    MODEL,
    SEED,
    STEP_ROWS,
    PlainScoring,
    PlainTraining,
    Setting,
    choice_rows,
    mixed_rows,
    multiplies_bfloat16,
    padded_batches,
)

from evoray.config import ClusterConfig, LoraConfig, TrainingConfig
from evoray.engine.events import Events
from evoray.engine.session import Session, session
from evoray.engine.trainer import TrainJob, train
from evoray.evaluation.likelihood import grouped_token_losses
from evoray.models.chat import Encoded, encode, encode_choices
from evoray.models.folder import Folder
from evoray.models.loading import load_model, load_tokenizer, new_adapter
from evoray.models.loss import Batch, collate, sample_losses, token_budget_batches
from evoray.models.packing import pack, packed_batches
from evoray.records import Row
from evoray.storage import Storage

PARTS = ("ratio", "packing", "shared_prompt", "start_up")
WORKERS, BUDGET = 2, 512


def main() -> None:
    """Run the parts asked for, print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3, help="turns that are counted")
    parser.add_argument("--steps", type=int, default=4, help="of each training, in each turn")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    facts: dict[str, Any] = {}
    if "packing" in options.only:
        facts |= packing(options.blocks)
    if "shared_prompt" in options.only:
        facts |= shared_prompt(options.blocks)
    if "ratio" in options.only or "start_up" in options.only:
        facts |= launches(options)
    facts |= {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps(facts))


def launches(options: argparse.Namespace) -> dict[str, Any]:
    """Whole trainings, each precision in turn with its plain loop."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="evoray-benchmark-") as folder, session(ClusterConfig()) as workers:
        bench = _Bench(Path(folder), workers, options.steps)
        bench.ours("float32", options.steps)  # compiles DeepSpeed's operator where that was never done
        if "ratio" in options.only:
            found |= ratio(bench, "float32", Setting(), options.blocks, "")
            if multiplies_bfloat16():
                found |= ratio(bench, "bfloat16", BFLOAT16_FASTEST, options.blocks, "_bf16")
        if "start_up" in options.only:
            seconds = [bench.ours("float32", 1)[1] for _ in range(options.blocks)]
            found |= {"start_up": round(median(seconds), 2), "start_up_all": [round(one, 2) for one in seconds]}
    return found


def ratio(bench: _Bench, precision: str, setting: Setting, blocks: int, suffix: str) -> dict[str, Any]:
    """Tokens a second, ours over plain: the median of the turns."""
    plain, ratios, rates = PlainTraining(setting), [], []
    plain.train(bench.samples, bench.plan[:1])  # what a first pass costs once is not counted
    for turn in range(blocks):
        theirs, seconds = plain.train(bench.samples, bench.plan)
        ours, _ = bench.ours(precision, bench.steps)
        ratios.append(ours / (theirs / seconds))
        rates.append(ours)
        _say(f"turn {turn}{suffix}: ours {ours:.0f}, plain {theirs / seconds:.0f} tokens/s")
    return {f"training_ratio{suffix}": round(median(ratios), 3), f"training_tokens_per_s{suffix}": round(median(rates))}


class _Bench:
    """Rows on disk, and trainings of them."""

    def __init__(self, folder: Path, workers: Session, steps: int) -> None:
        rows = mixed_rows(STEP_ROWS * steps, SEED)
        self.folder, self.workers, self.steps = folder, workers, steps
        self.samples = encode(rows, load_tokenizer(MODEL), MAX_TOKENS)
        self.plan = [range(step * STEP_ROWS, (step + 1) * STEP_ROWS) for step in range(steps)]
        self._write(rows)
        self._number = 0

    def _write(self, rows: Sequence[Row]) -> None:
        lines = [{"messages": [vars(turn) for turn in row.messages], "id": row.id} for row in rows]
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def ours(self, precision: str, steps: int) -> tuple[float, float]:
        """A launch of its own: tokens a second in the loop, the first step included; seconds to its first step."""
        self._number += 1
        storage = Storage(self.folder / f"run-{self._number}")
        config = TrainingConfig(
            precision=precision, workers=WORKERS, batch_size=STEP_ROWS, micro_batch_tokens=BUDGET, checkpoint_steps=None
        )
        job = TrainJob(
            name="benchmark",
            data=str(self.folder / "rows.jsonl"),
            model=MODEL,
            start=None,
            out=Folder(storage=storage, prefix="adapter"),
            inputs={},
            lora=LoraConfig(),
            config=config,
            max_tokens=MAX_TOKENS,
            max_chars=10**6,
            steps=steps,
            seed=SEED,
            threads=max(1, (os.cpu_count() or 1) // WORKERS),
        )
        (facts,) = train([job], self.workers, Events(storage))
        events = [json.loads(line) for line in (self.folder / f"run-{self._number}" / "events.jsonl").open()]
        (first,) = (event["seconds_from_launch"] for event in events if event["event"] == "first step")
        return facts["tokens"] / facts["seconds"], float(first)


def packing(blocks: int) -> dict[str, Any]:
    """Forward and backward passes over the same rows: packed, padded in random order, and padded by length."""
    tokenizer = load_tokenizer(MODEL)
    pad_id = int(tokenizer.pad_token_id)
    model = new_adapter(load_model(MODEL), LoraConfig(), SEED)

    def run(batches: Sequence[Batch]) -> float:
        began = time.perf_counter()
        for batch in batches:
            torch.autograd.backward(sample_losses(model, batch).sum())
        return time.perf_counter() - began

    def padded(samples: Sequence[Encoded], turn: int) -> list[Batch]:
        return [
            Batch(batch.input_ids, batch.attention_mask, *_targets(batch.input_ids, batch.labels), len(batch.input_ids))
            for batch in padded_batches(samples, STEP_ROWS, pad_id, SEED + turn)
        ]

    def grouped(samples: Sequence[Encoded], _turn: int) -> list[Batch]:
        groups = token_budget_batches([len(one.ids) for one in samples], BUDGET)
        return [collate([samples[place] for place in group], pad_id) for group in groups]

    def packed(samples: Sequence[Encoded], _turn: int) -> list[Batch]:
        return [pack([samples[place] for place in group]) for group in packed_batches(_lengths(samples), BUDGET)]

    ways: dict[str, Callable[[Sequence[Encoded], int], list[Batch]]] = {
        "packed": packed, "padded": padded, "grouped": grouped,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(blocks + 1):
        samples = encode(mixed_rows(3 * STEP_ROWS, SEED + turn), tokenizer, MAX_TOKENS)
        for name in sorted(ways, key=lambda name: (list(ways).index(name) + turn) % len(ways)):
            seconds[name].append(run(ways[name](samples, turn)))
        _say(f"turn {turn}: " + ", ".join(f"{name} {found[-1]:.2f} s" for name, found in seconds.items()))
    return {
        "packing": _median_ratio(seconds["padded"], seconds["packed"]),
        "packing_over_grouped": _median_ratio(seconds["grouped"], seconds["packed"]),
    }


def _lengths(samples: Sequence[Encoded]) -> list[int]:
    return [len(sample.ids) for sample in samples]


def _targets(ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a padded batch: positions that predict a token with loss, those tokens, and their rows."""
    predicts = torch.zeros_like(ids, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] >= 0
    rows, places = predicts.nonzero(as_tuple=True)
    return predicts, ids[rows, places + 1], rows


def shared_prompt(blocks: int) -> dict[str, Any]:
    """Log-likelihoods of four choices a question; both ways must agree on them."""
    tokenizer = load_tokenizer(MODEL)
    scratch, model = PlainScoring(), load_model(MODEL)
    theirs: list[float] = []
    ours: list[float] = []
    for turn in range(blocks + 1):
        groups = [encode_choices(row, tokenizer, MAX_TOKENS) for row in choice_rows(8, SEED + turn)]
        began = time.perf_counter()
        found = grouped_token_losses(model, groups, scratch.pad_id)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        expected = scratch.score([one for group in groups for one in group])
        theirs.append(time.perf_counter() - began)
        sums = [-float(losses.sum()) for group in found for losses in group]
        worst = max(abs(one - other) for one, other in zip(sums, expected, strict=True))
        if worst > 1e-2:
            raise SystemExit(f"log-likelihoods differ by {worst}")
        _say(f"turn {turn}: shared {ours[-1]:.2f} s, from scratch {theirs[-1]:.2f} s")
    return {"shared_prompt": _median_ratio(theirs, ours)}


def _median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Of the turns but the first."""
    return round(median(a / b for a, b in zip(over[1:], under[1:], strict=True)), 3)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
