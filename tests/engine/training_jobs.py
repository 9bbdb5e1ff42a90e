"""Trainings on tiny data that Ray Train runs on two workers, and what a plain loop makes of the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoray.config import LoraConfig, TrainingConfig
from evoray.engine.site import Source
from evoray.engine.trainer import TrainJob
from evoray.engine.workers import TargetRows
from evoray.models.folder import Folder
from evoray.records import Message, Row
from evoray.storage import Storage
from evoray.training.order import batches, learning_rate_factor
from tests.training.plain import Plain, tiny_adapter, tiny_rows, tiny_samples, train_plainly

ROWS, STEPS, SEED = 7, 5, 4

#: What training on the rows first helps and then harms.
VALIDATE = [
    Row(id=f"validate-{text}", messages=(Message("user", "say it"), Message("assistant", text * 4)))
    for text in ("xyq", "yqx", "qy")
]
CONFIG = TrainingConfig(
    batch_size=3,
    micro_batch_tokens=128,
    learning_rate=3e-3,
    warmup_share=0.3,
    max_grad_norm=0.5,
    weight_decay=0.01,
    precision="float32",
)


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Files that the trainings read, and the folder that they write to."""

    model: Path
    folder: Path

    @classmethod
    def at(cls, folder: Path, model: Path) -> Workbench:
        """Write rows, a validate split and an adapter with B away from zero to start from."""
        write_rows(folder / "rows.jsonl", tiny_rows(ROWS))
        for split in ("align", "validate"):
            write_rows(folder / "target" / f"{split}.jsonl", VALIDATE)
        tiny_adapter(model).save_pretrained(folder / "start")
        return cls(model=model, folder=folder)

    def job(self, name: str, steps: int = STEPS, rows: str = "rows.jsonl", **changes: Any) -> TrainJob:
        """A training of its own folder: the tests' config with some changes, from the same adapter (or all weights)."""
        config = CONFIG.model_copy(update=changes)
        validate = TargetRows(path=str(self.folder / "target"), split="validate", seed=0, unit_rows=8)
        return TrainJob(
            name=name,
            data=str(self.folder / rows),
            model=str(self.model),
            start=Folder.at(str(self.folder / "start")) if config.weights == "lora" else None,
            out=Folder(storage=Storage(self.folder / "out"), prefix=name),
            inputs={},
            lora=LoraConfig(rank=2, alpha=4),
            config=config,
            max_tokens=96,
            max_chars=10**6,
            steps=steps,
            seed=SEED,
            threads=1,
            validate=Source(rows=validate, units=(0,), identity="validate"),
        )

    def out(self, name: str) -> Path:
        """What a training left."""
        return self.folder / "out" / name

    def facts(self, name: str) -> Mapping[str, Any]:
        """What it reported."""
        found: Mapping[str, Any] = json.loads((self.out(name) / "training.json").read_text())
        return found

    def plainly(self, steps: int = STEPS, planned: int = STEPS, **changes: Any) -> Plain:
        """The first steps of the same training, one sample at a time in this process."""
        config = CONFIG.model_copy(update=changes)
        factors = [learning_rate_factor(step, planned, config.warmup_share) for step in range(steps)]
        samples = tiny_samples(self.model, ROWS)
        return train_plainly(
            tiny_adapter(self.model),
            samples,
            batches([sample.ids for sample in samples], config.batch_size, steps, SEED),
            [config.learning_rate * factor for factor in factors],
            config.max_grad_norm,
            config.weight_decay,
        )


def write_rows(path: Path, rows: list[Row]) -> None:
    """Rows as JSON lines of messages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": row.id, "messages": [{"role": turn.role, "content": turn.content} for turn in row.messages]}
        for row in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
