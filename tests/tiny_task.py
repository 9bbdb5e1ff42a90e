"""A tiny pool and target: arithmetic on the task, other text off it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml


def write_task(folder: Path, pool_rows: int = 60, target_rows: int = 12, seed: int = 0) -> Path:
    """Write pool.jsonl and target/{align,validate,test}.jsonl; return the folder."""
    generator = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "target").mkdir(exist_ok=True)
    pool = []
    for index in range(pool_rows):
        if index % 3 == 0:
            a, b = generator.randrange(50), generator.randrange(50)
            pool.append({"id": f"sum-{index}", "source": "sums", "instruction": f"{a}+{b}?", "output": str(a + b)})
        else:
            word = "".join(generator.choices("abcdefgh", k=12))
            pool.append({"id": f"word-{index}", "source": "words", "instruction": f"say {word}", "output": word})
    _write(folder / "pool.jsonl", pool)
    for split in ("align", "validate", "test"):
        rows = []
        for index in range(target_rows):
            a, b = generator.randrange(50, 90), generator.randrange(50)
            choices = [str(a + b), str(a + b + 1), str(a - b)][:: generator.choice((1, -1))]
            row = {"id": f"{split}-{index}", "instruction": f"{a}+{b}?", "output": str(a + b)}
            rows.append({**row, "choices": list(dict.fromkeys(choices)), "answer": str(a + b)})
        _write(folder / "target" / f"{split}.jsonl", rows)
    return folder


def write_config(folder: Path, model: Path, **overrides: Any) -> Path:
    """A config for `write_task`'s files that a test machine runs in well under a minute."""
    config: dict[str, Any] = {
        "pool": "pool.jsonl",
        "target": "target",
        "model": str(model),
        "out": str(folder / "run"),
        "rounds": 2,
        "reading": {"unit_rows": 16},
        "lora": {"rank": 2, "alpha": 4},
        "features": {"dim": 64, "max_tokens": 96, "warmup": {"rows": 16, "threads": 1}},
        "selection": {"k": 8, "steps": 6},
        "training": {"epochs": 1, "micro_batch_tokens": 512},
        **overrides,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
