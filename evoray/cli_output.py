"""What commands show and keep."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.live import Live

from evoray.errors import ConfigError

if TYPE_CHECKING:
    from evoray.pipeline import RunResult
    from evoray.report.display import Display


def display() -> Display:
    """Progress of stages, for whoever looks at standard error."""
    from evoray.report.display import Display

    return Display(Console(stderr=True))


def show_facts(facts: dict[str, Any]) -> None:
    """Print a result as JSON."""
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))


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
    from evoray.report.markdown import verdict
    from evoray.report.table import result_rows, rich_table

    console = Console()
    console.print(rich_table(*result_rows(result.summary.arms), title=f"Results on {result.summary.split} rows"))
    console.print(verdict(result.summary))
    console.print(f"Results: {result.out} (report.html, report.md, rounds/, best/)", soft_wrap=True)
