"""What was done to runs, and what it cost: a table at the end of the tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.object_store import object_store

_FAULT = "fault"

#: Notes one fault: what was done, during which stage, and the seconds that it cost (None: not measured).
Note = Callable[[str, str, float | None], None]


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Note:
    """Faults go with the test's own report, through whichever process runs it."""
    return lambda kind, stage, seconds: record_property(_FAULT, [kind, stage, seconds])


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Variables with which an S3-compatible server of this module is found."""
    with object_store() as found:
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print faults injected and survived, and the seconds that each cost in the mean."""
    found: dict[str, list[tuple[str, float | None, bool]]] = defaultdict(list)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", []):
                if name == _FAULT and report.when == "call":
                    kind, stage, seconds = value
                    found[kind].append((stage, seconds, outcome == "passed"))
    if not found:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':<36} {'injected':>8} {'survived':>8} {'s lost each':>11}  during")
    for kind, faults in sorted(found.items()):
        costs = [seconds for _, seconds, _ in faults if seconds is not None]
        lost = f"{sum(costs) / len(costs):.1f}" if costs else "-"
        stages = ", ".join(sorted({stage for stage, *_ in faults}))
        survived = sum(ok for *_, ok in faults)
        terminalreporter.write_line(f"{kind:<36} {len(faults):>8} {survived:>8} {lost:>11}  {stages}")
