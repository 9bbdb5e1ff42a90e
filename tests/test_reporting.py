from __future__ import annotations

import json
from pathlib import Path

import pytest

from evoray.errors import ConfigError, StorageError
from evoray.report.comparison import ComparisonSummary
from evoray.report.summary import RunSummary
from evoray.reporting import PAGE, REPORT, SUMMARY, read_report, write_page, write_reports
from evoray.storage import Storage
from tests.report.pages import full_comparison, full_run


@pytest.mark.parametrize("made", [full_run(), full_comparison()], ids=["run", "comparison"])
def test_what_is_written_is_what_is_read_and_made_again(tmp_path: Path, made: RunSummary | ComparisonSummary) -> None:
    write_reports(Storage(tmp_path), made)
    page, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in (PAGE, REPORT))
    assert page.startswith("<!doctype html>")
    assert read_report(str(tmp_path)) == markdown
    assert read_report(str(tmp_path), form="html") == page
    assert json.loads((tmp_path / SUMMARY).read_text()) == json.loads(json.dumps(made.to_json()))
    (tmp_path / PAGE).unlink()
    assert write_page(str(tmp_path)) == str(tmp_path / PAGE)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == page
    linked = [part.split(")")[0] for part in markdown.split("](plots/")[1:]]
    assert all((tmp_path / "plots" / name).exists() for name in linked)
    assert bool(linked) == isinstance(made, ComparisonSummary)


def test_the_report_can_be_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    write_reports(Storage(tmp_path), full_run())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    read_report(str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_what_is_no_finished_run_or_comparison_is_refused(tmp_path: Path) -> None:
    for refused in (tmp_path, tmp_path / "absent"):
        for call in (read_report, write_page):
            with pytest.raises(ConfigError):
                call(str(refused))
    with pytest.raises(ConfigError, match="markdown or html"):
        read_report(str(tmp_path), form="pdf")
    (tmp_path / SUMMARY).write_text('{"arms": 3}')
    with pytest.raises(StorageError, match="arms"):
        read_report(str(tmp_path))
    assert not (tmp_path / PAGE).exists()
    assert not (tmp_path / "absent").exists()
