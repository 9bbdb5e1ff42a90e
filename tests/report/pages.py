"""Summaries with all that a page shows, and what a stranger might put into them."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np

from evoray.report.comparison import ComparisonSummary
from evoray.report.comparison_page import render_comparison_page
from evoray.report.evidence import Cloud, Curve, Example, FeatureMap, Manifest, Sample, SetAside
from evoray.report.run_page import render_run
from evoray.report.summary import PathPoint, RunSummary, SourceShare, TraceStep
from tests.report import test_comparison, test_report

#: Markup, ends of what the page is made of, quotes, turned and hidden letters, a control sequence, half a letter.
HOSTILE = (
    "<script>alert(1)</script></style></title><img src=x onerror=alert(1)>\"'`&lt;{{7*7}}{% raw %}"
    "\u202eterces\u202c\u200b\x1b[31m\x00\ud800 $x_{$ |\n# </script><b onclick='x'>"
)
LONG = "id-" + "x" * 10_000


def full_run(text: str | None = None, **changes: Any) -> RunSummary:
    """A run of three rounds with every part of the page. text: stands in every place that comes from data."""

    def said(plain: str) -> str:
        return plain if text is None else text

    def sample(name: str) -> Sample:
        return Sample(id=said(name), source=said("facts"), prompt=said("What is it?"), response=said("This.\nThat."))

    reasons = ("empty response", "too long", "target: not text")
    made: dict[str, Any] = {
        "name": said("demo"),
        "choice": dataclasses.replace(
            test_report.run().choice,
            sources=tuple(SourceShare(source=f"{said('source')} {n}", pool=100 - n, chosen=n % 7) for n in range(20)),
        ),
        **_of_rounds(),
        "quarantine": {said(reason): 3 for reason in reasons},
        "feature_map": FeatureMap(round=1, representation="gradient", explained=(0.2, 0.1), clouds=_clouds()),
        "examples": tuple(
            Example(rank=n, row=sample(f"pool-{n}"), similarity=0.9, nearest=sample(f"align-{n}")) for n in range(1, 5)
        ),
        "set_aside": tuple(
            SetAside(id=said(f"row-{n}"), reason=said(reasons[n % 3]), detail=said("why"), file=said("a.jsonl"), row=n)
            for n in range(12)
        ),
        "train_seconds": {"random": 30.0, "round 1": 31.0},
        "config": said("pool: a.jsonl\ntarget: b\n"),
        "command": said("evoray run --config demo.yaml"),
        "manifest": Manifest(identity={"pool": said("abc"), "seed": "0"}, environment={"cpus": "2"}),
        "versions": {"evoray": said("0.1.0")},
    }  # fmt: skip
    return test_report.run(**{**made, **changes})


def _of_rounds() -> dict[str, Any]:
    """What three rounds tried, how their solver went, and their trainings."""
    path = tuple(
        PathPoint(
            round=number, lam=lam, r=r, transport_cost=0.6 - 0.01 * lam + 0.02 * r, vendi=8 + 3 * lam - r,
            validate_loss=2.0 if r == 0.5 else None, chosen=(lam, r) == (0.3, 0.5),
        )
        for number in (1, 2, 3) for r in (0.1, 0.5) for lam in (0.0, 0.3, 1.0)
    )  # fmt: skip
    trace = tuple(
        TraceStep(
            round=number, step=step, marginal_error=0.1 * math.exp(-step / 5), transport=0.5, diversity=0.1,
            effective=50.0 - step, gap=0.2 * math.exp(-step / 9),
        )
        for number in (1, 2, 3) for step in range(0, 45, 5)
    )  # fmt: skip
    curves = tuple(
        Curve(
            name=f"{name} {number}", round=number, kind=kind, measure="loss", steps=tuple(range(1, 31)),
            values=tuple(2 + math.exp(-step / 9) for step in range(30)),
        )
        for number in (1, 2, 3) for name, kind in (("round", "chosen"), ("random", "random"))
    )  # fmt: skip
    return {"path": path, "trace": trace, "curves": curves}


def _clouds() -> tuple[Cloud, ...]:
    draw = np.random.default_rng(0)
    kinds: tuple[tuple[Any, int, float], ...] = (("pool", 2000, 2.0), ("target", 40, 1.0), ("chosen", 64, 1.0))
    return tuple(
        Cloud(
            kind=kind,
            rows=10 * rows,
            places=tuple((float(x), float(y)) for x, y in draw.normal(0, spread, (rows, 2)).round(4)),
            nearest=0.5,
        )
        for kind, rows, spread in kinds
    )


def full_comparison(text: str | None = None) -> ComparisonSummary:
    """A comparison of two targets and two budgets. text: stands in every place that comes from data."""
    name = "evoselect" if text is None else text
    targets = ("arc", "piqa") if text is None else (text, text + "2")
    budgets = ("96", "0.2")
    groups = tuple(test_comparison.group(target, budget, name) for budget in budgets for target in targets)
    return test_comparison.summary(
        groups=groups,
        overall=tuple(test_comparison.overall(budget, name) for budget in budgets),
        config="{}" if text is None else text,
        versions={"evoray": "0.1.0"},
        reference="random" if text is None else text,
        unscored=("arc/less/96/0",) if text is None else (text,),
        pool_sources={"facts": 100, "junk": 300} if text is None else {text: 3, "漢字": 1},
    )


@cache
def rendered(kind: str, text: str | None = None) -> str:
    """The page of a run, or of a comparison, drawn once."""
    if kind == "run":
        return render_run(full_run(text))
    return render_comparison_page(full_comparison(text))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        """All values of an attribute."""
        return [attrs[attribute] or "" for _, attrs in self.found if attribute in attrs]
