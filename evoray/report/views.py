"""What results show of themselves, with the tables of their reports."""

from __future__ import annotations

from collections.abc import Mapping

from evoray.records import Comparison, Score
from evoray.report.comparison import ComparisonSummary
from evoray.report.comparison_markdown import headline
from evoray.report.comparison_tables import overall_grid
from evoray.report.cost_tables import duration, forecast_grid, price_grid
from evoray.report.costs import Forecast
from evoray.report.markdown import verdict
from evoray.report.page import Prose, Table
from evoray.report.run_tables import result_grid
from evoray.report.shown import View
from evoray.report.summary import Interval, RunSummary
from evoray.report.table import Columns, Grid, count, interval


def run_view(out: str, run: RunSummary) -> View:
    """A run: its models, the verdict, and where the rest is."""
    return [
        Table(caption=f"Results on {run.split} rows", grid=result_grid(run)),
        Prose(lines=[verdict(run), f"Results: {out} (report.html, report.md, rounds/, best/)"]),
    ]


def compared_view(out: str, comparison: ComparisonSummary) -> View:
    """A comparison: the selectors at each budget, what won, and where the rest is."""
    tables = [
        Table(
            caption="All targets" + ("" if one.budget is None else f" at budget {one.budget}"),
            grid=overall_grid(one, comparison.reference),
        )
        for one in comparison.overall
    ]
    return [*tables, Prose(lines=[headline(comparison), f"Results: {out} (report.html, report.md, cells.jsonl)"])]


def plan_view(forecast: Forecast) -> View:
    """A plan: what each kind of stage costs, and on machines with a price the whole."""
    rehearsed = f"rehearsed on {count(forecast.rehearsed_rows)} rows in {duration(forecast.rehearsal_seconds)}"
    title = f"{count(forecast.pool_rows)} rows, {count(forecast.workers)} workers; {rehearsed}"
    price = price_grid(forecast.prices)
    stages = Table(caption=title, grid=forecast_grid(forecast))
    return [stages] if price is None else [stages, Table(caption="Price", grid=price)]


def score_view(score: Score) -> View:
    """What a model scored."""
    return [Table(caption="Score", grid=_scores({"model": score})), *_notes(score)]


def comparison_view(found: Comparison) -> View:
    """What two models scored, and how far apart they are."""
    models = {"model": found.model, "against": found.against}
    return [Table(caption="Two models on the same rows", grid=_scores(models, found)), *_notes(*models.values())]


def _scores(scores: Mapping[str, Score], difference: Comparison | None = None) -> Grid:
    ones: list[Score | Comparison] = [*scores.values(), *([] if difference is None else [difference])]
    signed = [one is difference for one in ones]
    columns: Columns = [
        ("", [*scores, *([] if difference is None else ["model - against"])]),
        ("loss [95%]", [interval(_loss(one), signed=sign) for one, sign in zip(ones, signed, strict=True)]),
        (
            "accuracy [95%]",
            [interval(_accuracy(one), percent=True, signed=sign) for one, sign in zip(ones, signed, strict=True)],
        ),
        ("rows", [count(one.rows) for one in ones]),
    ]
    return Grid.of_columns(columns)


def _loss(one: Score | Comparison) -> Interval:
    return Interval(value=one.loss, low=one.loss_low, high=one.loss_high)


def _accuracy(one: Score | Comparison) -> Interval | None:
    if one.accuracy is None or one.accuracy_low is None or one.accuracy_high is None:
        return None
    return Interval(value=one.accuracy, low=one.accuracy_low, high=one.accuracy_high)


def _notes(*scores: Score) -> View:
    lines = dict.fromkeys(f"{name}: {text}" for score in scores for name, text in (score.facts or {}).items())
    return [Prose(lines=list(lines))] if lines else []
