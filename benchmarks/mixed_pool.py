"""Does selection beat random rows on real targets, with unchanged defaults?

One pool mixed from all files of a folder of pools; for every target and seed one run of one round, whose
control arm trains on random rows of the same tokens for the same steps. Every (target, seed, arm) is a cell:
one JSON row in `cells.jsonl` with the loss of each test row, so that the paired interval over seeds and rows
can be recomputed. Finished cells are skipped: the same command goes on. The last line printed is one JSON object.

    python benchmarks/mixed_pool.py --data PATH --out DIR [--targets arc_challenge ...] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mixed_data import DATA_SEED, mix_pool, target_folder
from rich.console import Console

from evoray import run
from evoray.config import RunConfig
from evoray.config_file import apply_override, build_config
from evoray.engine.session import session
from evoray.evaluation.intervals import paired_difference_seeds
from evoray.report.display import Display
from evoray.storage import Storage, UnitStore


def main() -> None:
    """Run all cells, then print the table and the JSON object."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    pool = mix_pool(options.data / "pools", options.out / "pool.parquet", options.rows_per_file)
    with session(_config(options.targets[0], options.seeds[0], pool, options).cluster):  # one Ray for all cells
        for seed in options.seeds:
            for target in options.targets:
                _run_cell(target, seed, pool, options)
    print(json.dumps(_summary(options)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pools/*.parquet and targets/<task>/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", default=["arc_challenge", "winogrande", "strategyqa"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows-per-file", type=int, default=150)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--set", nargs="*", default=[], help="config keys that differ from the defaults: none")
    return parser.parse_args()


def _config(target: str, seed: int, pool: Path, options: argparse.Namespace) -> RunConfig:
    data: dict[str, Any] = {
        "pool": str(pool),
        "target": str(target_folder(target, options.data, options.out, options.test_rows)),
        "out": str(options.out / f"{target}-{seed}"),
        "store": str(options.out / "store"),
        "rounds": 1,
        "seed": seed,
        # One proxy for all seeds: the split of dev, the control's draw and the trainings vary with the seed.
        "features": {"seed": DATA_SEED},
    }
    for text in options.set:
        apply_override(data, text)
    return build_config(data)


def _run_cell(target: str, seed: int, pool: Path, options: argparse.Namespace) -> None:
    out = options.out / f"{target}-{seed}"
    cells = {(cell["target"], cell["seed"], cell["arm"]) for cell in _cells(options)}
    if all((target, seed, arm) in cells for arm in ("base", "random", "evoselect")):
        return
    Console(stderr=True).print(f"[bold]{target}, seed {seed}[/bold]")
    config = _config(target, seed, pool, options)
    result = run(config, display=Display(Console(stderr=True)), command="benchmarks/mixed_pool.py")
    aligned = json.loads((out / "rounds/0001/aligned.json").read_text())
    names = {"base": "base", "random 1": "random", "round 1": "evoselect"}
    with (options.out / "cells.jsonl").open("a") as stream:
        for arm in result.summary.arms:
            cell = {
                "target": target,
                "seed": seed,
                "arm": names[arm.name],
                "loss": arm.loss.value,
                "accuracy": None if arm.accuracy is None else arm.accuracy.value,
                "rows": arm.rows,
                "tokens": arm.tokens,
                "steps": arm.steps,
                **_row_scores(out, arm.name, options),
            }
            if arm.name == "round 1":
                sources = {share.source: share.chosen for share in result.summary.choice.sources if share.chosen}
                cell |= {"lambda": aligned["lambda"], "r": aligned["r"], "sources": sources}
            stream.write(json.dumps(cell) + "\n")


def _row_scores(out: Path, arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Loss and correctness of each test row, found by the fingerprint that the run's events name."""
    shown = {"base": "untrained model", "random 1": "random 1", "round 1": "round 1"}[arm]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    finals = [e["fingerprints"] for e in events if e.get("stage", "").endswith(" on test") and "fingerprints" in e]
    identity = finals[-1][shown]
    store = UnitStore(Storage(options.out / "store"), f"scores/{identity}")
    table = pa.concat_tables([store.read(commit) for commit in store.commits().values()])
    return {"losses": table["loss"].to_pylist(), "correct": table["correct"].to_pylist()}


def _cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    path = options.out / "cells.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _summary(options: argparse.Namespace) -> dict[str, Any]:
    cells = _cells(options)
    rows = []
    for target in options.targets:
        arms = {
            arm: [c for c in cells if c["target"] == target and c["arm"] == arm and c["seed"] in options.seeds]
            for arm in ("base", "random", "evoselect")
        }
        losses = {arm: np.array([cell["losses"] for cell in found]) for arm, found in arms.items()}
        difference, low, high = paired_difference_seeds(losses["evoselect"], losses["random"], seed=0)
        row: dict[str, Any] = {"target": target, "test_rows": losses["random"].shape[1], "seeds": len(arms["random"])}
        for arm, found in arms.items():
            row[f"loss_{arm}"] = round(float(losses[arm].mean()), 4)
            accuracies = [cell["accuracy"] for cell in found if cell["accuracy"] is not None]
            row[f"accuracy_{arm}"] = round(float(np.mean(accuracies)), 4) if accuracies else None
        row |= {"difference": round(difference, 4), "low": round(low, 4), "high": round(high, 4), "beats": high < 0}
        rows.append(row)
    print(_markdown(rows))
    hardware = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    return {"targets": rows, "beaten": sum(row["beats"] for row in rows), "of": len(rows), "hardware": hardware}


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| target | loss untrained | random | evoselect | difference [95%] | accuracy untrained, random, evoselect |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = ", ".join(
            "-" if row[f"accuracy_{arm}"] is None else f"{row[f'accuracy_{arm}']:.1%}"
            for arm in ("base", "random", "evoselect")
        )
        lines.append(
            f"| {row['target']} | {row['loss_base']:.4f} | {row['loss_random']:.4f} | {row['loss_evoselect']:.4f} | "
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] | {accuracy} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
