from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections import Counter

import pytest

from evoray.report.comparison import ComparisonSummary
from evoray.report.comparison_page import render_comparison_page
from evoray.report.inline_svg import VARIABLES
from evoray.report.run_page import render_run
from evoray.report.summary import RunSummary
from evoray.report.table import is_numeric
from tests.report import test_comparison, test_report
from tests.report.pages import HOSTILE, LONG, Elements, full_comparison, full_run, rendered

#: What a page is made of: whatever else is in it came out of a text.
OURS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "script"),
    *("h1", "h2", "p", "a", "b", "ul", "ol", "li", "dl", "dt", "dd", "div", "span", "code", "pre"),
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "details", "summary", "figure", "figcaption"),
    *("svg", "desc", "defs", "g", "path", "use", "text", "tspan", "rect", "clippath"),
}

both = pytest.mark.parametrize("kind", ["run", "comparison"])


@both
def test_the_same_summary_gives_the_same_page(kind: str) -> None:
    again = render_run(full_run()) if kind == "run" else render_comparison_page(full_comparison())
    assert rendered(kind) == again


@both
def test_nothing_in_it_is_loaded_from_elsewhere(kind: str) -> None:
    elements = Elements(rendered(kind))
    assert elements.values("src") == []
    assert all(link.startswith("#") for link in elements.values("href"))
    assert re.findall(r"url\((?!#)|@import", rendered(kind)) == []
    assert {tag for tag, _ in elements.found} <= OURS


@both
def test_the_policy_allows_its_own_style_and_script_and_nothing_else(kind: str) -> None:
    text = rendered(kind)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    for name in ("style", "script"):
        (inside,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert set(rules.values()) == {"'none'"}
    elements = Elements(text)
    assert elements.values("style") == [], "the policy would ignore it"
    assert [name for _, attrs in elements.found for name in attrs if name.startswith("on")] == []


@both
@pytest.mark.parametrize("text", [HOSTILE, LONG], ids=["markup", "length"])
def test_text_from_data_stays_text(kind: str, text: str) -> None:
    made = rendered(kind, text)
    elements = Elements(made)
    assert {tag for tag, _ in elements.found} <= OURS
    assert Counter(tag for tag, _ in elements.found)["script"] == 1
    assert [name for _, attrs in elements.found for name in attrs if name.startswith("on")] == []
    assert all(one.isprintable() or one in "\n\u200c\u200d" for one in made), "no mark that hides or turns text"
    made.encode()
    assert text[:200].splitlines()[0][:60] in "".join(elements.text), "it is shown as it is"
    assert "49" not in [part.strip() for part in elements.text], "no template was run"


@both
def test_what_is_long_is_cut(kind: str) -> None:
    assert max(map(len, Elements(rendered(kind, LONG)).values("aria-label"))) < 400
    assert "x" * 700 not in re.sub(r"<pre.*?</pre>", "", rendered(kind, LONG), flags=re.DOTALL)


@both
def test_every_id_is_there_once_and_every_link_has_its_end(kind: str) -> None:
    for text in (None, HOSTILE):
        made = rendered(kind, text)
        elements = Elements(made)
        ids = elements.values("id")
        assert [name for name, times in Counter(ids).items() if times > 1] == []
        ends = [link[1:] for link in elements.values("href")] + re.findall(r"url\(#([^)]+)\)", made)
        ends += [name for value in elements.values("aria-labelledby") for name in value.split()]
        assert set(ends) <= set(ids)


@both
def test_every_plot_is_named_and_its_colours_follow_the_theme(kind: str) -> None:
    made = rendered(kind)
    plots = re.findall(r"<svg.*?</svg>", made, re.DOTALL)
    assert plots
    for plot in plots:
        assert re.search(r'role="img" aria-labelledby="\S+" aria-describedby="\S+"', plot)
        assert re.search(r"<title id=\"[^\"]+\">[^<]+</title><desc id=\"[^\"]+\">[^<]+</desc>", plot)
        assert re.findall(r"#[0-9a-fA-F]{6}", plot) == []
    style = made[: made.index("</style>")]
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    for variable in VARIABLES.values():
        assert f"--{variable}:" in light
        assert f"--{variable}:" in dark.split("* {")[0] or variable in ("area-1", "area-2")


def test_the_verdict_stands_before_all_tables_and_says_how_it_went() -> None:
    made = rendered("run")
    assert made.index("Round 1 was kept") < made.index("<table")
    assert 'class="lead better"' in made
    arms = (*test_report.run().arms[:2], dataclasses.replace(test_report.run().arms[2], against_random=None))
    assert 'class="lead unclear"' in render_run(full_run(arms=arms))


def test_the_page_of_a_run_holds_the_numbers_of_the_summary() -> None:
    made = rendered("run")
    for shown in (
        "1.0000 [0.9000, 1.1000]",
        "-0.5000 [-0.6000, -0.4000]",
        "75.0% [65.0%, 85.0%]",
        "seconds to train",
        "31.0",
        "1 min 30 s",
        "Chosen, rank 1:",
        "Nearest row of the target, cosine 0.900:",
        "What is it?",
        "target: not text",
        "dual gap",
        "evoray run --config demo.yaml",
        "pool: a.jsonl",
        "Written by evoray 0.1.0",
    ):
        assert shown in made


def test_the_page_of_a_comparison_holds_the_tables_and_the_plots() -> None:
    made = rendered("comparison")
    for shown in (
        "20 cells, scored on the test rows. Unfinished: 4 of 24 cells are missing.",
        "1.0000 [0.9000, 1.1000]",
        "not told apart",
        "Paired loss difference to random",
        "Picks that two selectors share",
        "Spearman correlation",
        "predicted alignment",
    ):
        assert shown in made
    assert made.count("<svg") == 2 * 8 + 1


def test_summaries_of_earlier_versions_are_rendered_without_what_they_do_not_have() -> None:
    new = {"feature_map", "examples", "set_aside", "curves", "train_seconds", "config", "manifest"}
    old = {key: value for key, value in test_report.run().to_json().items() if key not in new}
    for point in old["path"]:
        del point["vendi"]
    made = render_run(RunSummary.from_json(json.loads(json.dumps(old))))
    assert "lambda, the weight of diversity" in made
    assert "Map of pool" not in made and "Training" not in made
    old = {
        key: value for key, value in test_comparison.summary().to_json().items() if key not in {"config", "versions"}
    }
    assert "<table" in render_comparison_page(ComparisonSummary.from_json(old))


def test_sections_without_content_are_left_out() -> None:
    bare = test_report.run(
        choice=type(full_run().choice)(), path=(), certificates=(), trace=(), quarantine={}, timings={}, versions={}
    )
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", render_run(bare))
    assert titles == ["Results", "To get the same again", "How to read this"]
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", render_comparison_page(test_comparison.empty()))
    assert titles == ["State", "How to read this"]
    assert "<svg" in render_comparison_page(test_comparison.bare())


def test_of_many_rounds_the_last_ones_and_the_kept_one_have_plots() -> None:
    point, rounds = full_run().path[0], 12
    path = tuple(dataclasses.replace(point, round=number) for number in range(1, rounds + 1))
    made = render_run(full_run(path=path, best="round 1"))
    shown = re.findall(r"Round (\d+): alignment against diversity</b>", made)
    assert shown == ["1", "9", "10", "11", "12"]


def test_of_many_models_the_first_the_kept_and_the_last_are_drawn_and_all_are_in_the_table() -> None:
    base, _, kept = test_report.run().arms
    arms = (base, *(dataclasses.replace(kept, name=f"round {number}") for number in range(1, 60)))
    made = render_run(full_run(arms=arms, best="round 2"))
    (plot,) = re.findall(r'<svg[^>]*aria-labelledby="losses-t".*?</svg>', made)
    drawn = re.findall(r">((?:round \d+(?: \(kept\))?)|base)</text>", plot)
    assert drawn == ["base", "round 2 (kept)", *(f"round {number}" for number in range(36, 60))]
    assert all(f">round {number}</th>" in made for number in range(1, 60))


def test_a_page_is_small() -> None:
    assert len(rendered("run").encode()) < 500_000


def test_columns_of_numbers_are_told_from_columns_of_text() -> None:
    rows = (
        ("a1", "1,234", "-0.1 [-0.2, +0.3]", "12", "best"),
        ("b", "-", "", "1e-05", "+1.5%"),
        ("2", "7", "3", "x", "4"),
    )
    assert [is_numeric(column) for column in zip(*rows, strict=True)] == [False, True, True, False, True]
    assert not is_numeric(["-"])
