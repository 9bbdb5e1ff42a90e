"""Which selector moves a model most, on real targets, with unchanged defaults? Through `evoray compare`.

One pool mixed from all files of a folder of pools, several targets, several seeds; every (target, selector, seed) is a
cell that is trained and scored once: the same command goes on where it was interrupted, and with more selectors, seeds
or targets only the new cells are made. Cells are whole in themselves: `--merge` reports those of other runs (one a
seed, say, on machines of one kind) together with these, and `--seeds` without a number makes none. The last line
printed is one JSON object.

    python benchmarks/quality.py --data PATH --out DIR [--targets arc_challenge ...] [--seeds 0 1 2] [--selectors ...]
        [--merge DIR/comparison/cells.jsonl ...] [--tune] [--entry '{"name": ..., "selector": ...}' ...]

`--tune` scores on one half of the dev rows, and aims at the other: settings are tried there, and test rows are left
alone. It takes over the features that are in `--out` already.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mixed_data import mix_pool, target_folder, tuning_folder
from rich.console import Console
from sinkhorn_measures import cpu_name

from evoray import compare
from evoray.comparison_config import ComparisonConfig, build_comparison
from evoray.config_file import apply_override
from evoray.engine.comparison_summary import summarise_comparison
from evoray.report.comparison import ComparisonSummary
from evoray.report.comparison_markdown import render_comparison
from evoray.report.display import Display

_TARGETS = ["arc_challenge", "winogrande", "strategyqa", "bbh_logic"]
#: Each as its authors use it; where several representations are common, gradients and RDS+ are both there.
_ENTRIES: dict[str, dict[str, Any]] = {
    "random": {"selector": "random"},
    "random-tokens": {"selector": "random", "tokens_of": "evoselect"},
    "evoselect": {"selector": "evoselect"},
    "less": {"selector": "less"},
    "round_robin": {"selector": "round_robin"},
    "round_robin-rds": {"selector": "round_robin", "features": {"representation": "rds"}},
    "doubly_greedy": {"selector": "doubly_greedy"},
    "uot": {"selector": "uot"},
    "knn_uniform": {"selector": "knn_uniform"},
    "knn_kde": {"selector": "knn_kde"},
    "k_center": {"selector": "k_center"},
    "kmeans_random": {"selector": "kmeans_random"},
    "entropy": {"selector": "entropy"},
}


def main() -> None:
    """Run all cells, then print the report and the JSON object."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.tune and not (options.out / _folder(options)).exists():
        for name in ("known", "features", "pool", "warmup"):
            if (options.out / "comparison" / name).exists():
                shutil.copytree(options.out / "comparison" / name, options.out / _folder(options) / name)
    if options.seeds:
        compare(_config(options), display=Display(Console(stderr=True)))
    own = options.out / _folder(options) / "cells.jsonl"
    cells = [cell for path in [own, *options.merge] for cell in _cells(path)]
    summary = summarise_comparison(cells, reference="random", pool={})
    print(render_comparison(summary, "plots/"))
    print(json.dumps(_verdict(summary, options)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pools/*.parquet and targets/<task>/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", default=_TARGETS)
    parser.add_argument("--selectors", nargs="+", default=list(_ENTRIES), choices=list(_ENTRIES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--merge", nargs="*", type=Path, default=[], help="cells of other runs, as .jsonl or .jsonl.gz")
    parser.add_argument("--k", default="96")
    parser.add_argument("--rows-per-file", type=int, default=200)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--deciles", action="store_true", help="also train on each tenth of the ranked pool")
    parser.add_argument("--entry", action="append", type=json.loads, default=[], help="one more entry, as JSON")
    parser.add_argument("--tune", action="store_true", help="score on half of the dev rows; test rows are not read")
    parser.add_argument("--set", nargs="*", default=[], help="config keys that differ from the defaults: none")
    return parser.parse_args()


def _config(options: argparse.Namespace) -> ComparisonConfig:
    data: dict[str, Any] = {
        "pool": str(mix_pool(options.data / "pools", options.out / "pool.parquet", options.rows_per_file)),
        "targets": {name: str(_target(name, options)) for name in options.targets},
        "selectors": [*({"name": name, **_ENTRIES[name]} for name in options.selectors), *options.entry],
        "budgets": [options.k],
        "seeds": options.seeds,
        "deciles": options.deciles,
        "out": str(options.out / _folder(options)),
        "training": {"workers": 1},  # two small trainings side by side waste less than one on two workers
    }
    for text in options.set:
        apply_override(data, text)
    return build_comparison(data)


def _folder(options: argparse.Namespace) -> str:
    return "tuning-comparison" if options.tune else "comparison"


def _target(name: str, options: argparse.Namespace) -> Path:
    if options.tune:
        return tuning_folder(name, options.data, options.out)
    return target_folder(name, options.data, options.out, options.test_rows)


def _cells(path: Path) -> list[dict[str, Any]]:
    """Cells of a finished or interrupted comparison; none where there is no such file."""
    if not path.is_file():
        return []
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def _verdict(summary: ComparisonSummary, options: argparse.Namespace) -> dict[str, Any]:
    """Where evoselect stands: against random on each target, and against the best selector of each in the mean."""
    ours = {group.target: group.result("evoselect") for group in summary.groups}
    against = {target: one.against for target, one in ours.items() if one is not None and one.against is not None}
    standings = [one for overall in summary.overall for one in overall.standings if one.selector == "evoselect"]
    return {
        "against_random": {target: [one.low, one.value, one.high] for target, one in against.items()},
        "wins": sum(one.high < 0 for one in against.values()),
        "targets": len(summary.groups),
        "mean_gap_to_best": standings[0].mean_gap if standings else None,
        "k": options.k,
        "cells": summary.cells,
        "hardware": f"{os.cpu_count()} x {cpu_name()}",
    }


if __name__ == "__main__":
    main()
