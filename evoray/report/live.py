"""What a run is doing, as one picture for the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evoray.report.cost_tables import duration
from evoray.report.table import count, rich_table

_BAR_WIDTH = 40
#: Seconds without a sign of a running stage, after which it is said.
_SILENT_S = 60.0
#: What is counted of a stage, and how it is said.
_SHOWN = (
    ("actors", "{:,.0f} actors"),
    ("rows_per_second", "{:,.1f} rows/s"),
    ("tokens_per_second", "{:,.0f} tokens/s"),
    ("peak_mb", "up to {:,.0f} MB in one"),
    ("quarantined", "{:,.0f} rows set aside in it"),
)


def status_view(found: Mapping[str, Any]) -> Group:
    """A status: who drives the run, how far its rounds are, and the running stage."""
    parts: list[RenderableType] = [Text(f"{found['out']}  {_driver(found)}", style="bold")]
    rounds = [(str(number), ", ".join(states) or "begun") for number, states in sorted(found["rounds"].items())]
    if rounds:
        parts.append(rich_table(("round", "done"), rounds))
    if found["running"] is not None:
        parts += _stage(found["running"])
    if found["quarantined"]:
        parts.append(Text(f"{count(found['quarantined'])} rows set aside, with reasons in quarantine/"))
    return Group(*parts)


def _driver(found: Mapping[str, Any]) -> str:
    lock = found["lock"]
    if found["abandoned"]:
        return f"process {lock.get('pid')} that drove it has ended: the command that began it goes on"
    if lock is not None:
        return f"driven by process {lock.get('pid')} on {lock.get('host')}"
    return "finished" if found["finished"] else "nobody drives it: the command that began it goes on"


def _stage(running: Mapping[str, Any]) -> list[RenderableType]:
    done, total = running["done"], running["total"]
    line = Table.grid(padding=(0, 1))
    parts: list[RenderableType] = [Text(str(running["stage"]))]
    if total:
        parts += [ProgressBar(total=total, completed=done, width=_BAR_WIDTH), Text(f"{count(done)}/{count(total)}")]
    parts.append(Text(duration(running["seconds"])))
    silent = time.time() - running["time"]
    if silent > _SILENT_S:
        parts.append(Text(f"last seen {duration(silent)} ago", style="yellow"))
    if running["seconds_left"] is not None:
        parts.append(Text(f"ETA {duration(running['seconds_left'])}"))
    line.add_row(*parts)
    facts = _facts(running)
    return [line, Text("; ".join(facts))] if facts else [line]


def _facts(running: Mapping[str, Any]) -> list[str]:
    """What was counted of the stage, in words."""
    found = {name: float(running.get(name) or 0) for name, _ in _SHOWN}
    return [form.format(found[name]) for name, form in _SHOWN if found[name]]
