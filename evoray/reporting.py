"""The reports of a run or a comparison: written when it is done, and made again at any time from its summary alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from evoray.engine.rundir import existing
from evoray.errors import ConfigError
from evoray.report.comparison import ComparisonSummary
from evoray.report.comparison_markdown import render_comparison
from evoray.report.markdown import render
from evoray.report.summary import RunSummary
from evoray.storage import Storage

SUMMARY, REPORT, PAGE, PLOTS = "summary.json", "report.md", "report.html", "plots"

Form = Literal["markdown", "html"]


def write_reports(storage: Storage, summary: RunSummary | ComparisonSummary) -> None:
    """Summary first: from it the reports can be made again. A comparison's plots are also files of their own."""
    storage.write_json(SUMMARY, summary.to_json(), sort_keys=False)  # stages keep their order
    if isinstance(summary, ComparisonSummary):
        from evoray.report.comparison_plots import draw

        for name, image in draw(summary).items():
            storage.write(f"{PLOTS}/{name}", image)
    for name, form in ((REPORT, "markdown"), (PAGE, "html")):
        storage.write(name, _render(summary, form).encode())


def read_report(out: str, *, form: str = "markdown") -> str:
    """The report of a finished run or comparison, as `markdown` or `html`.

    Raises ConfigError for another form, and where there is no summary.
    """
    if form not in get_args(Form):
        raise ConfigError(f"form {form!r}", " or ".join(get_args(Form)), "choose one of them")
    return _render(_summary(existing(out)), form)


def write_page(out: str) -> str:
    """Write `report.html` of a finished run or comparison anew; where it is. Raises ConfigError as `read_report`."""
    storage = existing(out)
    storage.write(PAGE, _render(_summary(storage), "html").encode())
    return storage.location(PAGE)


def _summary(storage: Storage) -> RunSummary | ComparisonSummary:
    if not storage.exists(SUMMARY):
        raise ConfigError(
            f"{storage.uri} without {SUMMARY}",
            "the directory of a finished run or comparison",
            "run `evoray run` or `evoray compare` again to finish it",
        )
    document: Mapping[str, Any] = storage.read_json(SUMMARY)
    return (ComparisonSummary if "groups" in document else RunSummary).from_json(document)


def _render(summary: RunSummary | ComparisonSummary, form: str) -> str:
    """Pages draw plots, which takes seconds to import: only where one is asked for."""
    if isinstance(summary, ComparisonSummary):
        if form == "markdown":
            return render_comparison(summary, f"{PLOTS}/")
        from evoray.report.comparison_page import render_comparison_page

        return render_comparison_page(summary)
    if form == "markdown":
        return render(summary)
    from evoray.report.run_page import render_run

    return render_run(summary)
