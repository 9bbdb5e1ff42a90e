"""Compare selectors as a job on a running Ray cluster.

Submit it with

    ray job submit --working-dir jobs -- python run_comparison.py CONFIG [--out DIR] [--set KEY=VALUE ...]

The driver joins the cluster that the job was submitted to; trainings run side by side as far as its actors allow
(`parallel`). A job that was cut short goes on when it is submitted again. Exit codes: 0 done, 2 wrong input, 1 a stage
that could not finish.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evoray.cli import run_program
from evoray.comparison import compare
from evoray.comparison_config import load_comparison
from evoray.engine.rundir import check_outlives_job
from evoray.report.display import Display


def comparison(arguments: Sequence[str]) -> None:
    """Parse the arguments and run. Raises EvorayError."""
    parser = argparse.ArgumentParser(prog="run_comparison.py", description="Compare selectors on this cluster.")
    parser.add_argument("config", type=Path, help="YAML config of a comparison")
    parser.add_argument("--out", help="folder that every node reaches, or bucket URI")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key and its value")
    given = parser.parse_args(arguments)
    config = load_comparison(given.config, [*given.set, "cluster.address=auto"], out=given.out)
    check_outlives_job(config.out)
    result = compare(config, display=Display(Console(stderr=True)))
    Console().print(f"{result.headline}\nResults: {result.out} (report.html, report.md, cells.jsonl)", soft_wrap=True)


if __name__ == "__main__":
    run_program(lambda: comparison(sys.argv[1:]))
