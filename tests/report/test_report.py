from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from evoray.errors import StorageError
from evoray.report import (
    Arm,
    Certificate,
    Choice,
    Interval,
    PathPoint,
    RunSummary,
    SourceShare,
    TraceStep,
    markdown_table,
    render,
    result_rows,
    rich_table,
    verdict,
)

HOSTILE = "a|b <script>alert(1)</script> **bold** [x](http://y)\n# title [red]\x1b[31m"


def interval(value: float, width: float = 0.1) -> Interval:
    return Interval(value=value, low=value - width, high=value + width)


def run(**changes: Any) -> RunSummary:
    base = RunSummary(
        name="demo",
        split="test",
        target_rows=1200,
        arms=(
            Arm(name="base", loss=interval(2.0), accuracy=interval(0.25)),
            Arm(name="random", loss=interval(1.5), accuracy=interval(0.5), rows=64, tokens=4096, steps=20),
            Arm(
                name="round 1",
                loss=interval(1.0),
                accuracy=interval(0.75),
                against_random=interval(-0.5),
                good_share=0.9,
                rows=64,
                tokens=4000,
                steps=20,
            ),
        ),
        best="round 1",
        choice=Choice(
            sources=(SourceShare(source="junk", pool=300, chosen=4), SourceShare(source="facts", pool=100, chosen=60)),
            vendi=12.34,
            vendi_target=10.0,
            tokens_mean=50.0,
            tokens_mean_pool=40.0,
        ),
        path=(PathPoint(round=1, lam=0.3, r=0.1, transport_cost=0.5, chosen=True),),
        certificates=(Certificate(name="dual gap", value=1e-4, bound=1e-3, holds=True),),
        trace=(
            TraceStep(round=1, step=40, marginal_error=4e-4, transport=0.41, diversity=0.02, effective=70.5, gap=3e-3),
        ),
        quarantine={"no answer": 3, "empty": 30},
        timings={"featurise": 60.0, "train": 30.5},
        versions={"torch": "2.13.0"},
        command="evoray run --config demo.yaml",
    )
    return dataclasses.replace(base, **changes)


def test_a_summary_survives_json() -> None:
    assert RunSummary.from_json(json.loads(json.dumps(run().to_json()))) == run()


@pytest.mark.parametrize(
    ("change", "named"), [({"best": None}, "best"), ({"colour": "red"}, "colour"), ({"arms": [{"name": "x"}]}, "loss")]
)
def test_a_summary_of_another_shape_is_refused_and_the_key_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(StorageError, match=named):
        RunSummary.from_json({**run().to_json(), **change})


def test_the_verdict_stands_before_all_tables() -> None:
    page = render(run())
    assert page.index("It beats random rows") < page.index("| model |")


@pytest.mark.parametrize(
    ("difference", "says"),
    [(-0.5, "It beats random rows"), (0.5, "worse than random rows"), (0.05, "cannot be told apart")],
)
def test_the_verdict_follows_the_interval_and_not_the_point(difference: float, says: str) -> None:
    arms = (*run().arms[:2], dataclasses.replace(run().arms[2], against_random=interval(difference)))
    assert says in verdict(run(arms=arms))


def test_a_run_that_kept_the_untrained_model_says_so() -> None:
    assert "No round was better" in verdict(run(best="base"))
    assert "No result is known" in verdict(run(best="round 9"))


def test_the_page_holds_every_number_of_the_summary() -> None:
    page = render(run())
    for shown in (
        "1.0000 \\[0.9000, 1.1000\\]",
        "75.0% \\[65.0%, 85.0%\\]",
        "-0.5000 \\[-0.6000, -0.4000\\]",
        "| facts | 100 | 25.0% | 60 | 93.8% |",
        "12.3; the target's own is 10.0",
        "50.0; of a pool row: 40.0 (1.25 times)",
        "| 1 | 0.3 | 0.1 | 0.5 | chosen |",
        "| dual gap | 0.0001 | 0.001 | yes |",
        "| empty | 30 |",
        "| all | 90.5 |",
        "| torch | 2.13.0 |",
        "    evoray run --config demo.yaml",
    ):
        assert shown in page


def test_sections_without_content_are_left_out() -> None:
    bare = run(choice=Choice(), path=(), certificates=(), trace=(), quarantine={}, timings={}, versions={})
    page = render(bare)
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## To get the same again"]


def test_columns_that_no_model_has_are_left_out() -> None:
    header, rows = result_rows([Arm(name="base", loss=interval(2.0))])
    assert header == ("model", "loss [95%]")
    assert rows == [("base", "2.0000 [1.9000, 2.1000]")]


def test_text_from_data_stays_text_in_markdown() -> None:
    page = render(run(name=HOSTILE, quarantine={HOSTILE: 1}, command="x\n```\n# y"))
    assert "<script>" not in page
    assert "\\[x\\](http" in page
    assert "\x1b" not in page
    (line,) = [line for line in page.splitlines() if line.startswith("| a\\|b")]
    assert line.replace("\\|", "").count("|") == 3
    assert not [line for line in page.splitlines() if line.startswith(("# title", "# y", "```"))]


def test_a_table_in_the_terminal_shows_the_same_cells_and_reads_no_markup() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    header, rows = result_rows(run().arms)
    console.print(rich_table(header, [*rows, (HOSTILE, *rows[0][1:])], title="test [red]"))
    shown = console.export_text()
    assert "test [red]" in shown
    assert "[red]" in shown.split("a|b")[1]
    assert all(cell in shown for row in rows for cell in row)


def test_a_table_of_eighty_columns_cuts_no_number() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    header, rows = result_rows(run().arms)
    console.print(rich_table(header, rows))
    shown = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    for word in (word for row in rows for cell in row for word in cell.split()):
        assert word in shown


def test_a_table_of_no_rows_is_a_header_alone() -> None:
    assert markdown_table(("a", "b"), []) == "| a | b |\n| :-- | --: |"
