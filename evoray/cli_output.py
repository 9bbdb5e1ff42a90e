"""What commands show and keep."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.live import Live

from evoray.cli_options import Quiet, Verbose
from evoray.errors import ConfigError

if TYPE_CHECKING:
    from evoray.pipeline import RunResult
    from evoray.records import Comparison, Score
    from evoray.report.display import Display


#: How much of the work is shown: results and errors alone; progress too; or all that happens.
Level = Literal["quiet", "plain", "verbose"]
_LEVEL: ContextVar[Level] = ContextVar("level", default="plain")


def set_level(context: typer.Context, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Show so much of the command that follows; a flag goes before a variable of the environment.

    Raises ConfigError for both at once.
    """
    if quiet and verbose:
        quiet, verbose = (_is_typed(context, name) for name in ("quiet", "verbose"))
        if quiet == verbose:
            raise ConfigError(
                "--quiet and --verbose (or EVORAY_QUIET and EVORAY_VERBOSE)", "one of them at most", "leave one out"
            )
    _LEVEL.set("quiet" if quiet else "verbose" if verbose else "plain")
    if quiet:
        logging.getLogger().setLevel(logging.ERROR)
    if verbose:
        logging.getLogger("evoray").setLevel(logging.INFO)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def environment() -> dict[str, str]:
    """Variables by which another process of evoray shows as much."""
    return {} if _LEVEL.get() == "plain" else {f"EVORAY_{_LEVEL.get().upper()}": "1"}


def display() -> Display | None:
    """Progress of stages, for whoever looks at standard error; None: for nobody."""
    from evoray.report.display import Display

    return None if _LEVEL.get() == "quiet" else Display(Console(stderr=True), verbose=_LEVEL.get() == "verbose")


def say(line: str) -> None:
    """A line for a person, on standard error: neither a result nor an error."""
    if _LEVEL.get() != "quiet":
        typer.echo(line, err=True)


def show_facts(facts: dict[str, Any]) -> None:
    """Print a result as JSON."""
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))


def score_facts(
    found: Score | Comparison, model: tuple[str, str | None], against: tuple[str, str | None]
) -> dict[str, Any]:
    """What was measured, with the models that it is of, each with its adapter or none."""
    facts, (this, other) = asdict(found), ({"model": name, "adapter": adapter} for name, adapter in (model, against))
    if "against" not in facts:
        return {**this, **facts}
    return {**facts, "model": {**this, **facts["model"]}, "against": {**other, **facts["against"]}}


def show_live(states: Iterable[dict[str, Any]]) -> None:
    """Show each state in the place of the one before; as lines of JSON where nobody looks."""
    from evoray.report.live import status_view

    console = Console()
    if not console.is_terminal:
        for state in states:
            typer.echo(json.dumps(state, ensure_ascii=False))
        return
    with Live(console=console, auto_refresh=False) as live:
        for state in states:
            live.update(status_view(state), refresh=True)


def keep_facts(facts: dict[str, Any], out: Path | None) -> None:
    """Print a result and write it: printed first, since what was measured is not lost where the file fails."""
    show_facts(facts)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out {out}: {error}", "a file that can be written", "choose another path") from error


def show_run(result: RunResult) -> None:
    """Print the final table of a run and where its results are."""
    from evoray.report.shown import print_view
    from evoray.report.views import run_view

    print_view(run_view(result.out, result.summary), Console())
