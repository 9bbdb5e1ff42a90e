"""What results show of themselves: the report's tables, as text and as HTML, whatever their texts say."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

import evoray
from evoray.comparison import Compared
from evoray.generating import Generated
from evoray.pipeline import RunResult
from evoray.records import Comparison, Score
from evoray.report.comparison_tables import overall_grid
from evoray.report.cost_tables import forecast_grid
from evoray.report.markdown import verdict
from evoray.report.run_tables import result_grid
from evoray.single import Featurised, Selection, Trained
from tests.report.pages import HOSTILE, Elements, full_comparison, full_run
from tests.test_planning import FORECAST

#: Records that are given to selectors, or made by them, and single rows: read by programs.
NOT_RESULTS = {"Choice", "Needs", "Request", "Row"}

SCORE = Score(
    loss=1.25, loss_low=1.0, loss_high=1.5, accuracy=0.5, accuracy_low=0.25, accuracy_high=0.75, rows=1200,
    facts={"rows without verdict": "3"},
)  # fmt: skip
PAIRED = Comparison(
    model=SCORE, against=dataclasses.replace(SCORE, loss=1.5), loss=-0.25, loss_low=-0.5, loss_high=0.125,
    accuracy=None, accuracy_low=None, accuracy_high=None, rows=1100, verdicts=0,
)  # fmt: skip
SELECTION = Selection(
    path="runs/choice/selected.parquet",
    ids=tuple(f"row-{n}" for n in range(1500)),
    facts={"selector": "evoselect", "lambda": 0.30000000001, "shares": None, "path": [{"r": 0.1}] * 7, "usable": 2000},
    rows=object(),
)
RUN = RunResult(out="runs/first", best=1, summary=full_run())
COMPARED = Compared(out="runs/compared", headline="", summary=full_comparison())


def html_of(result: Any) -> Elements:
    return Elements(result._repr_html_())


def cells_of(result: Any) -> list[str]:
    """Texts of an HTML view, without what separates its elements."""
    return [text for text in html_of(result).text if text.strip()]


def test_all_that_the_interface_gives_back_shows_itself() -> None:
    records = {name for name in evoray.__all__ if dataclasses.is_dataclass(getattr(evoray, name))}
    assert {name for name in records if not hasattr(getattr(evoray, name), "_repr_html_")} == NOT_RESULTS


@pytest.mark.parametrize(
    ("result", "grids"),
    [
        (RUN, [result_grid(RUN.summary)]),
        (COMPARED, [overall_grid(one, COMPARED.summary.reference) for one in COMPARED.summary.overall]),
        (FORECAST, [forecast_grid(FORECAST)]),
    ],
    ids=["run", "comparison", "plan"],
)
def test_the_tables_are_those_of_the_report(result: Any, grids: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = cells_of(result)
    for grid in grids:
        for row in grid.rows:
            for cell in filter(None, row):
                assert cell in shown
                assert all(part in repr(result) for part in cell.split())


def test_a_run_gives_its_verdict_and_its_place() -> None:
    for text in (" ".join(repr(RUN).split()), RUN._repr_html_()):
        assert verdict(RUN.summary) in text
        assert "Results: runs/first (report.html" in text


def test_a_selection_tells_how_many_rows_and_not_all_of_them() -> None:
    assert [line.rstrip() for line in repr(SELECTION).replace("│", "|").splitlines() if "|" in line] == [
        " path      | runs/choice/selected.parquet",
        " ids       | 1,500: row-0, row-1, row-2, …",
        " selector | evoselect",
        " lambda   | 0.3",
        " shares   | -",
        " path     | 7 entries",
        " usable   | 2,000",
    ]
    assert "object" not in repr(SELECTION), "chosen rows show themselves"


def test_scores_show_their_intervals_and_the_difference_its_sign() -> None:
    assert "1.2500 [1.0000, 1.5000]" in repr(SCORE)
    assert "50.0% [25.0%, 75.0%]" in cells_of(SCORE)
    assert "rows without verdict: 3" in repr(SCORE)
    shown = cells_of(PAIRED)
    place = shown.index("model - against")
    assert shown[place : place + 4] == ["model - against", "-0.2500 [-0.5000, +0.1250]", "-", "1,100"]


@pytest.mark.parametrize(
    "result",
    [
        Featurised(path=HOSTILE, rows=3, quarantined=0),
        Trained(path="adapter", facts={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}}),
        Generated(path="rows", rows=3, facts={"refused": [HOSTILE, {}]}),
        RunResult(out=HOSTILE, best=1, summary=full_run(HOSTILE)),
        Compared(out=HOSTILE, headline="", summary=full_comparison(HOSTILE)),
    ],
    ids=lambda result: type(result).__name__,
)
def test_what_data_says_is_shown_and_neither_run_nor_obeyed(result: Any) -> None:
    ours = {"div", "style", "p", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"}
    found = html_of(result).found
    assert {tag for tag, _ in found} <= ours
    assert {name for _, attributes in found for name in attributes} <= {"class", "dir", "scope"}
    assert all(line.isprintable() for line in repr(result).splitlines())


def test_rich_shows_the_same_and_reads_no_markup() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(Featurised(path="[red]x[/red]", rows=3, quarantined=0))
    assert "[red]x[/red]" in stream.getvalue()


def test_a_path_is_never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = "/shared/" + "deep/" * 30 + "run"
    assert out in repr(dataclasses.replace(RUN, out=out)).splitlines()
