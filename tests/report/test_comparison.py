from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import pytest

from evoray.errors import StorageError
from evoray.report.comparison import (
    ComparisonSummary,
    Decile,
    DecileAnalysis,
    Group,
    Overall,
    Overlap,
    SelectorResult,
    Standing,
    Untrained,
)
from evoray.report.comparison_figures import planned
from evoray.report.comparison_markdown import headline, render_comparison
from evoray.report.comparison_plots import draw
from evoray.report.summary import Interval

HOSTILE = "a|b <script>alert(1)</script> **bold** $x_{$ [x](http://y)\n# title\x1b[31m"


def interval(value: float, width: float = 0.1) -> Interval:
    return Interval(value=value, low=value - width, high=value + width)


def result(selector: str, loss: float, against: float | None, **changes: Any) -> SelectorResult:
    base = SelectorResult(
        selector=selector,
        seeds=(0, 1, 2),
        at_budget=True,
        loss=interval(loss),
        scored_rows=500,
        against=None if against is None else interval(against),
        paired_seeds=0 if against is None else 3,
        wins=None if against is None else against + 0.1 < 0,
        accuracy=interval(0.5),
        accuracy_against=None if against is None else interval(0.1, 0.05),
        gap=interval(loss - 1.0),
        rank=2.0,
        distance=0.4,
        cosine=0.2,
        vendi=12.34,
        rows=96.0,
        tokens=12345.0,
        length_bias=1.25,
        sources={"facts": 0.75, "junk": 0.25},
        select_seconds=1.5,
        train_seconds=30.0,
        training_tokens=24690.0,
    )
    return dataclasses.replace(base, **changes)


def group(target: str = "arc", budget: str | None = "96", name: str = "evoselect") -> Group:
    return Group(
        target=target,
        budget=budget,
        test_rows=500,
        results=(result(name, 1.0, -0.5), result("random", 1.5, None), result("k_center", 1.55, 0.05)),
        untrained=Untrained(loss=interval(2.5), accuracy=interval(0.25), against=interval(1.0)),
        best=name,
        vendi_target=10.0,
        overlap=Overlap(
            selectors=(name, "k_center", "random"),
            shares=((1.0, 0.5, 0.0), (0.5, 1.0, None), (0.0, None, 1.0)),
        ),
    )


def overall(budget: str | None = "96", name: str = "evoselect") -> Overall:
    return Overall(
        budget=budget,
        standings=(
            Standing(
                selector=name,
                at_budget=True,
                targets=2,
                mean_gap=0.0,
                mean_against=-0.5,
                compared=2,
                wins=2,
                losses=0,
                mean_rank=1.0,
            ),
            Standing(selector="random", at_budget=True, targets=2, mean_gap=0.5, mean_rank=2.0),
            Standing(selector="k_center", at_budget=True, targets=2, mean_gap=0.55, mean_against=0.05, compared=2),
        ),
    )


def summary(**changes: Any) -> ComparisonSummary:
    base = ComparisonSummary(
        reference="random",
        reference_found=True,
        split="test",
        cells=20,
        expected=24,
        pool_sources={"facts": 100, "junk": 300},
        pool_tokens_mean=100.0,
        groups=(group("arc"), group("piqa")),
        overall=(overall(),),
        deciles=(
            DecileAnalysis(
                target="arc",
                selector="evoselect",
                budget="96",
                deciles=tuple(
                    Decile(index=n, loss=interval(1 + 0.1 * n), alignment=0.9 - 0.05 * n) for n in range(1, 11)
                ),
                points=30,
                spearman=-0.95,
            ),
        ),
    )
    return dataclasses.replace(base, **changes)


def bare() -> ComparisonSummary:
    """One selector and its losses, nothing else."""
    alone = SelectorResult(
        selector="less", seeds=(0,), at_budget=True, loss=interval(1.0), scored_rows=3, sources={}, rank=1.0
    )
    return ComparisonSummary(
        reference="random",
        reference_found=False,
        split="test",
        cells=1,
        pool_sources={},
        groups=(Group(target="arc", budget="8", test_rows=3, results=(alone,)),),
        overall=(Overall(budget="8", standings=(Standing(selector="less", at_budget=True, targets=1),)),),
    )


def empty() -> ComparisonSummary:
    return ComparisonSummary(
        reference="random", reference_found=False, split="", cells=0, pool_sources={}, groups=(), overall=()
    )


@pytest.mark.parametrize("made", [summary(), bare(), empty()])
def test_a_summary_survives_json(made: ComparisonSummary) -> None:
    assert ComparisonSummary.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False))) == made


@pytest.mark.parametrize(
    ("change", "named"), [({"split": None}, "split"), ({"colour": "red"}, "colour"), ({"groups": [{}]}, "target")]
)
def test_a_summary_of_another_shape_is_refused_and_the_key_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(StorageError, match=named):
        ComparisonSummary.from_json({**summary().to_json(), **change})


def test_the_headline_stands_before_all_tables() -> None:
    page = render_comparison(summary())
    assert "interval below zero on 2 of 2 targets and above zero on 0" in page
    assert page.index("interval below zero on 2 of 2") < page.index("| selector |")


def test_the_headline_tells_of_no_win_where_there_is_none() -> None:
    first, random, last = overall().standings
    none = dataclasses.replace(first, wins=0)
    assert "below zero on 0 of 2 targets" in headline(
        summary(overall=(Overall(budget="96", standings=(none, random)),))
    )
    reversed_ = Overall(budget="96", standings=(random, none, last))
    assert "No other selector has an interval below zero on any target" in headline(summary(overall=(reversed_,)))


def test_the_headline_names_who_wins_on_more_targets_than_the_first() -> None:
    first, random, last = overall().standings
    part = Overall(budget="96", standings=(random, first, last))
    assert "Intervals below zero: evoselect on 2 of 2." in headline(summary(overall=(part,)))
    behind = dataclasses.replace(last, wins=1)
    part = Overall(budget="96", standings=(dataclasses.replace(first, wins=0), random, behind))
    assert "More intervals below zero: k_center on 1 of 2." in headline(summary(overall=(part,)))


def test_the_page_holds_every_number_of_the_summary() -> None:
    page = render_comparison(summary())
    for shown in (
        "20 cells, scored on the test rows. Unfinished: 4 of 24 cells are missing.",
        "| evoselect | 2 | +0.0000 | -0.5000 | 2 of 2 | 0 of 2 | 1.00 |",
        "1.0000 \\[0.9000, 1.1000\\] | -0.5000 \\[-0.6000, -0.4000\\] | better | best |",
        "+0.0500 \\[-0.0500, +0.1500\\] | not told apart |",
        "+10.0% \\[+5.0%, +15.0%\\]",
        "| untrained model | - | 2.5000 \\[2.4000, 2.6000\\] | +1.0000",
        "| 96 | 12,345 | 1.25 | 0.4000 | 0.2000 | 12.3 | facts 75%, junk 25% |",
        "Vendi score of the target's own rows: 10.0",
        "| evoselect |  | 0% | 50% |",
        "| evoselect | 1.5 | 30.0 | 24,690 |",
        "Spearman correlation of predicted alignment and measured loss -0.95 over 30 points",
        "| arc | evoselect | 96 | 10 | 0.4000 | 2.0000 \\[1.9000, 2.1000\\] |",
    ):
        assert shown in page


def test_a_worse_selector_is_called_worse() -> None:
    worse = dataclasses.replace(group(), results=(result("random", 1.0, None), result("bad", 2.0, 1.0)))
    assert "| worse |" in render_comparison(summary(groups=(worse,)))


def test_without_a_reference_the_page_says_so_and_shows_no_difference() -> None:
    page = render_comparison(bare())
    assert "No finished cell is of the reference random: there are no differences to it." in page
    assert "loss - random" not in page
    assert "A difference to random" not in page
    assert "differences.svg" not in page


def test_a_comparison_without_cells_is_a_page_without_tables() -> None:
    page = render_comparison(empty())
    assert "No selector has a finished cell yet." in page
    assert "|" not in page
    assert draw(empty()) == {}


def test_targets_with_the_untrained_model_alone_are_shown_as_waiting() -> None:
    waiting = Group(target="gsm8k", budget=None, test_rows=7, results=(), untrained=Untrained(loss=interval(3.0)))
    page = render_comparison(summary(groups=(*summary().groups, waiting)))
    assert "| gsm8k | 7 | 3.0000 \\[2.9000, 3.1000\\] |" in page


def test_incomplete_seeds_and_rows_are_told() -> None:
    partial = result("less", 1.0, 0.1, paired_seeds=2, scored_rows=498)
    page = render_comparison(summary(groups=(dataclasses.replace(group(), results=(result("a", 1, 0), partial)),)))
    assert "| less | 3 (2 paired) |" in page
    assert "Test rows with a loss under every seed: 500, but for less 498." in page


def test_text_from_data_stays_text_in_markdown() -> None:
    hostile = dataclasses.replace(
        group(HOSTILE, name=HOSTILE), results=(result(HOSTILE, 1.0, -0.5, sources={HOSTILE: 1.0}),)
    )
    made = summary(groups=(hostile,), overall=(overall(name=HOSTILE),), reference=HOSTILE, unscored=(HOSTILE,))
    page = render_comparison(made)
    assert "<script>" not in page
    assert "[x](http" not in page.replace("\\[x\\](http", "")
    assert "\x1b" not in page
    assert not [line for line in page.splitlines() if line.startswith("# title")]
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("| ")]
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_every_plot_that_the_page_links_to_is_drawn_and_no_other() -> None:
    for made in (
        summary(),
        bare(),
        summary(groups=(group(), group(budget="0.2")), overall=(overall(), overall("0.2"))),
    ):
        links = re.findall(r"\]\(plots/([^)]+)\)", render_comparison(made, "plots/"))
        assert sorted(links) == sorted(draw(made))
        assert len(set(links)) == len(links)


def test_budgets_have_files_of_their_own_with_safe_names() -> None:
    budgets = ("../a b", "96", None)
    made = summary(groups=tuple(group(budget=one) for one in budgets), overall=tuple(map(overall, budgets)))
    names = [figure.name for figure in planned(made)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[0-9A-Za-z.-]+)?\.svg", name) for name in names)
    alike = ("a b", "a/b")
    made = summary(groups=tuple(group(budget=one) for one in alike), overall=tuple(map(overall, alike)))
    assert len({figure.name for figure in planned(made)}) == len(planned(made))


def test_the_same_summary_gives_the_same_bytes_whatever_the_settings_of_the_process() -> None:
    first = draw(summary())
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": True}):
        assert draw(ComparisonSummary.from_json(summary().to_json())) == first
    assert dict(matplotlib.rcParams) == before


def test_a_plot_is_well_formed_and_shows_names_as_plain_text() -> None:
    hostile = summary(
        groups=(group(HOSTILE, name=HOSTILE),), overall=(overall(name=HOSTILE),), pool_sources={HOSTILE: 3, "漢字": 1}
    )
    for drawn in draw(hostile).values():
        root = ET.fromstring(drawn)
        assert root.tag.endswith("svg")
        assert not [one for one in root.iter() if one.tag.endswith(("script", "image")) and "script" in one.tag]
        assert b"<dc:date>" not in drawn
    texts = [one.text for one in ET.fromstring(draw(hostile)["losses.svg"]).iter() if one.tag.endswith("text")]
    assert any(text and text.startswith("a|b <script>") for text in texts)


def test_every_selector_and_target_is_named_in_the_losses() -> None:
    drawn = draw(summary())["losses.svg"].decode()
    for name in ("evoselect", "random", "k_center", "arc", "piqa", "untrained"):
        assert name in drawn
