"""A command of evoray as the driver of a job: it joins the cluster that the job was submitted to.

`jobs/*.py` and `evoray submit` start it. The commands are those of the command line, with their options and their exit
codes: 0 done, 2 wrong input, 1 a stage that could not finish.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer.main

from evoray.cli import app
from evoray.cli_settings import run_config
from evoray.engine.rundir import check_outlives_job
from evoray.errors import ConfigError
from evoray.program import run_program


def drive(arguments: Sequence[str]) -> None:
    """Run `STAGE ...` on this cluster. Raises EvorayError, and SystemExit where the stage's own options are wrong."""
    commands = stages()
    stage = arguments[0] if arguments else None
    if stage not in commands:
        raise ConfigError(
            "no stage" if stage is None else f"the stage {stage!r}",
            f"one of {', '.join(commands)}",
            "give it first, then what `evoray STAGE --help` lists",
        )
    # Looked at without complaint: what is missing or unknown is said by the command itself.
    given = commands[stage].make_context(stage, list(arguments[1:]), resilient_parsing=True).params
    for place in _places(stage, given):
        check_outlives_job(place)
    app([stage, "--address", "auto", *arguments[1:]])


def stages() -> dict[str, Any]:
    """The commands that a cluster can run, by name."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {name: command for name, command in commands.items() if any(one.name == "address" for one in command.params)}


def main(arguments: Sequence[str]) -> None:
    """Entry point of a job; ends the process where the stage fails."""
    run_program(lambda: drive(arguments))


def _places(stage: str, given: dict[str, Any]) -> Iterator[str]:
    """Where a stage writes what is to stay."""
    path, overrides, out = given.get("config"), given.get("overrides") or [], given.get("out")
    if path is None:
        yield from (str(given[name]) for name in ("out", "scores") if given.get(name) is not None)
    elif stage == "compare":
        from evoray.comparison_config import load_comparison

        yield load_comparison(path, overrides, out=out).out
    else:
        config = run_config(path, None, overrides, out, None)
        yield from (place for place in (config.out, config.store) if place is not None)


if __name__ == "__main__":
    main(sys.argv[1:])
