"""What do the loops of `jobs/examples/` do on real data? Each example, with smaller numbers, as a user runs it.

DiverseEvol's and kMQ's loops choose from a pool mixed of several sets and are scored on ARC challenge; the embedded
model writes candidates for WinoGrande. `gate` is random rows of that pool at a learning rate that is far too high, with
harmful rounds rolled back: it shows what the do-no-harm gate does. Control arms are on elsewhere, so that each round
stands beside random rows of the same tokens. One seed: the intervals are over test rows alone, and no selector is
ranked by this.

    python benchmarks/loops.py --data PATH --out DIR [--only diverse_evol kmq generated_rounds gate]

The tables are printed as each loop ends; the last line is one JSON object. The same command goes on where it stopped,
`seconds` are those of the last process that worked on a loop then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixed_data import mix_pool, target_folder
from sinkhorn_measures import cpu_name

_EXAMPLES = Path(__file__).parent.parent / "jobs" / "examples"
_POOL_ROWS_PER_FILE, _TEST_ROWS = 50, 200


@dataclass(frozen=True)
class Loop:
    """One example, the target it is scored on, and what is set other than in its file."""

    example: str
    target: str
    settings: dict[str, Any]
    pool: bool = True


_SMALLER: dict[str, Any] = {"rounds": 3, "features.max_tokens": 384, "training.epochs": 2, "evaluation.control": True}
LOOPS = {
    "diverse_evol": Loop("diverse_evol", "arc_challenge", {**_SMALLER, "selection.k": 32}),
    "kmq": Loop("kmq", "arc_challenge", {**_SMALLER, "selection.k": 32, "selection.options.clusters": 40}),
    "generated_rounds": Loop("generated_rounds", "winogrande", {"generation.samples": 96}, pool=False),
    "gate": Loop(
        "diverse_evol",
        "arc_challenge",
        {
            **_SMALLER,
            "selection.selector": "random",
            "selection.k": 32,
            "training.learning_rate": 0.01,
            "training.on_harm": "roll_back",
            "training.from": "previous",
            "evaluation.control": False,
        },
    ),
}


def main() -> None:
    """Run the loops one after another, print their tables, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pools/ and targets/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=LOOPS, default=list(LOOPS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"cpus": os.cpu_count(), "cpu": cpu_name()}
    for name in options.only:
        found[name] = _measured(LOOPS[name], options.data, options.out.resolve(), name)
    print(json.dumps(found))


def _measured(loop: Loop, data: Path, out: Path, name: str) -> dict[str, Any]:
    """Run a loop to its end and print the first tables of its report: what its verdict rests on."""
    given: dict[str, Any] = {"target": target_folder(loop.target, data, out, _TEST_ROWS), **loop.settings}
    if loop.pool:
        given["pool"] = mix_pool(data / "pools", out / "pool.parquet", _POOL_ROWS_PER_FILE)
    command = [str(Path(sys.executable).with_name("evoray")), "run", str(_EXAMPLES / f"{loop.example}.yaml")]
    for key, value in given.items():
        command += ["--set", f"{key}={json.dumps(value) if isinstance(value, bool) else value}"]
    began = time.perf_counter()
    with (out / f"{name}.log").open("a") as log:
        subprocess.run([*command, "--out", str(out / name)], stdout=log, stderr=subprocess.STDOUT, check=True)
    seconds = time.perf_counter() - began
    tables, _, _ = (out / name / "report.md").read_text().partition("## What was chosen")
    print(f"\n{' '.join(command)}\n\n{tables}")
    summary = json.loads((out / name / "summary.json").read_text())
    return {"seconds": seconds, "best": summary["best"], "arms": summary["arms"], "progress": summary["progress"]}


if __name__ == "__main__":
    main()
