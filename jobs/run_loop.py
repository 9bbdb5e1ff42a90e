"""Run the whole loop as a job on a running Ray cluster.

Submit it with

    ray job submit --working-dir jobs -- python run_loop.py CONFIG [--out DIR] [--set KEY=VALUE ...] [--anew]

The driver joins the cluster that the job was submitted to. A job that was cut short goes on when it is submitted
again. Exit codes: 0 done, 2 wrong input, 1 a stage that could not finish.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evoray.cli import run_program, show_result
from evoray.config_file import load_config
from evoray.engine.rundir import check_outlives_job
from evoray.pipeline import run
from evoray.report.display import Display


def loop(arguments: Sequence[str]) -> None:
    """Parse the arguments and run. Raises EvorayError."""
    parser = argparse.ArgumentParser(prog="run_loop.py", description="Run the whole loop of a config on this cluster.")
    parser.add_argument("config", type=Path, help="YAML config")
    parser.add_argument("--out", help="run directory that every node reaches, or bucket URI")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config key and its value")
    parser.add_argument("--anew", action="store_true", help="delete an earlier run in this folder first")
    given = parser.parse_args(arguments)
    config = load_config(given.config, [*given.set, "cluster.address=auto"], out=given.out)
    check_outlives_job(config.out)
    command = shlex.join(["python", "run_loop.py", *arguments])
    show_result(run(config, display=Display(Console(stderr=True)), anew=given.anew, command=command))


if __name__ == "__main__":
    run_program(lambda: loop(sys.argv[1:]))
