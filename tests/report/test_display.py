"""What a person sees of a running stage, and of the log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from evoray.report.display import Display, event_line
from tests.report.pages import HOSTILE

EVENT = {
    "time": 0.0, "event": "unit failed", "run": "/runs/here", "round": 2, "stage": "featurise pool", "unit": 7,
    "store": "features/ab", "seconds": 1.23456789, "counts": {"rows": 3}, "error": "", "finished": False,
}  # fmt: skip


def shown(verbose: bool) -> str:
    stream = io.StringIO()
    display = Display(Console(file=stream, width=40), verbose=verbose)
    display.begin("read", 12)
    display.event(EVENT)
    display.end(1.0)
    return stream.getvalue()


def test_an_event_is_one_line_of_its_facts_but_for_the_run() -> None:
    assert re.sub(r"^\d\d:\d\d:\d\d", "TIME", event_line(EVENT)) == (
        'TIME unit failed round=2 stage="featurise pool" unit=7 store=features/ab seconds=1.23457 '
        'counts={"rows": 3} error="" finished=false'
    )


def test_events_and_beginnings_are_shown_where_all_is_asked_for() -> None:
    assert shown(verbose=False) == "read: done in 1.0 s\n"
    first, event, last = shown(verbose=True).splitlines()
    assert (first, event, last) == ("read: begins, 12 steps", event_line(EVENT), "read: done in 1.0 s")


@pytest.mark.parametrize("text", [HOSTILE, "[red]a[/red]", "a\nb"])
def test_what_data_says_steers_no_terminal(text: str) -> None:
    line = event_line({**EVENT, "error": text})
    assert line.isprintable()
    stream = io.StringIO()
    Display(Console(file=stream), verbose=True).event({**EVENT, "error": text})
    assert stream.getvalue() == line + "\n"
