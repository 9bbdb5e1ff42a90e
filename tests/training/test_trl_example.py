"""The example that trains with TRL on rows that evoray exported, run for real."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evoray import export
from tests.tiny import build_tiny_model

pytest.importorskip("trl", reason="NOT TESTED: trl is not installed (pip install -e '.[trl]')")

EXAMPLE = Path(__file__).parents[2] / "jobs/examples/train_with_trl.py"


def test_trl_trains_a_model_on_rows_that_evoray_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    chosen = [{"id": str(place), "instruction": f"{place} + 1?", "output": str(place + 1)} for place in range(4)]
    source = tmp_path / "selected.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    data = export(str(source), str(tmp_path / "chosen")).path
    model, out = build_tiny_model(tmp_path / "model"), tmp_path / "trained"
    done = runpy.run_path(str(EXAMPLE))["train"](
        data, str(model), str(out), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none",
        use_cpu=True, bf16=False, save_strategy="no",
    )  # fmt: skip
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, out))
    moved = [not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True)]
    assert done.global_step == 2
    assert all(moved)
