"""The paper plan: its arithmetic by hand, its inputs from the results' pages, its counts from the code itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from paper_costs import (
    ASSUMED,
    MEASURED,
    SINGLE,
    WORKER_PUTS,
    feature_hours,
    hours_of,
    numbers_taken_in,
    one_process_bytes,
    request_hours,
    selection_core_hours,
    shards_of,
    tiles_of,
    units_of,
)
from paper_plan import PAGE, TABLES, filled, stored_table

from evoray.engine.reuse import Known
from evoray.engine.units import UnitResult, UnitWorker, Work, _UnitActor, clear_marks
from evoray.records import Message, Row
from evoray.storage import Storage, UnitStore, backend
from tests.source_tree import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def test_the_tables_of_the_guide_are_those_of_the_script() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "python benchmarks/paper_plan.py --write"
    assert [page.count(f"<!-- plan: {name} -->") for name in TABLES] == [1] * len(TABLES)


def test_hours_of_features_are_tokens_times_six_operations_over_what_gpus_do() -> None:
    # 10 million rows of 256 tokens, 6 x 0.5e9 operations each, are 7.68e18: 7,765 s of an H100's 989e12 a second.
    least, most = feature_hours(10_000_000, 0.5e9)
    assert least == pytest.approx(7765.4 * 0.99 / 0.5 / 3600, rel=1e-4)
    assert most == pytest.approx(7.693 * 0.3 / 0.14, rel=1e-3)


def test_units_tiles_and_shards_follow_the_rules_of_the_code() -> None:
    assert (units_of(10_000_000, 64), units_of(100_000_000, 1024)) == (156_250, 97_657)
    assert (tiles_of(10_000_000, 64), tiles_of(10_000_000, 1024)) == (2442, 153)
    assert [shards_of(10_000_000, unit, gpus) for unit, gpus in ((64, 8), (64, 64), (1024, 512))] == [64, 512, 153]


def test_other_numbers_by_hand() -> None:
    assert sum(requests for _, requests, *_ in SINGLE) == 24
    # Six requests a unit, 32 at a time, and eighteen that are 16 at a time.
    assert request_hours(10_000_000, 64) == pytest.approx(156_250 * (6 / 32 + 18 / 16) * 0.02 / 3600)
    # The pool eight times (once to hash it) and the features twice.
    assert one_process_bytes(1000, 2048) == 1000 * (8 * 2000 + 2 * 8192)
    assert [numbers_taken_in(10_000_000, shards) for shards in (64, 512)] == [6_400_000, 10_000_000]
    # Three starts of 431 - 39 x 7.6 us, and 7 x 40 steps of 7.6 us.
    assert selection_core_hours(1_000_000) == pytest.approx((3 * 134.6 + 2128) / 3600)
    assert {line[0]: line[3] for line in stored_table()[1] if line[1] == "float32"} == {
        "512": "20 GB",
        "2048": "82 GB",
        "8192": "330 GB",
    }
    hours = hours_of(10_000_000, 7e9, 64, 1024)
    assert max(hours, key=lambda name: hours[name]) == "features"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("featurize_2x", f"| {MEASURED.feature_over_plain[0]} | {MEASURED.feature_over_plain[1]} |"),
        ("featurize_h200", f"**{ASSUMED.mfu[0]:.0%}** by the convention of 6"),
        ("million", f"({MEASURED.memory_a_row / 1e3:g} kB; {MEASURED.core_us_a_step} us of a core a step"),
        ("million", f"{MEASURED.core_us_a_row:g} us in all"),
        ("training", f"| {1 / MEASURED.training_over_plain:.2f} ("),
        ("training", f"{MEASURED.launch_seconds} s"),
        ("reduction", f"{MEASURED.reductions:,} reductions of vectors, {MEASURED.moments} of moments"),
    ],
)
def test_what_is_called_measured_stands_in_a_page_of_results(page: str, said: str) -> None:
    (path,) = RESULTS.glob(f"{page}*.md")
    assert said in path.read_text(encoding="utf-8")


class _Nothing(UnitWorker):
    def compute(self, unit: int) -> UnitResult:
        return UnitResult(table=pa.table({"id": [f"row-{unit}"]}), facts={"quarantined": 0})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a storage was asked for each kind of thing."""
    counts = dict.fromkeys(("put", "get", "delete", "head"), 0)

    def counted(name: str) -> Any:
        real = getattr(backend.obstore, name)

        def ask(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return real(*args, **options)

        return ask

    for name in counts:
        monkeypatch.setattr(backend.obstore, name, counted(name))
    return counts


def test_requests_of_a_unit_are_those_that_the_code_makes(tmp_path: Path, asked: dict[str, int]) -> None:
    work = Work(
        stage="read", units=(0, 1), factory=_Nothing, store=UnitStore(Storage(tmp_path), "pool/a"), quarantine="q"
    )
    actor = _UnitActor([work], "attempt-1", 3, 1)
    for unit in work.units:
        assert actor({"work": [0], "unit": [unit]})["error"] == [None]
    assert asked == {"put": 2 * WORKER_PUTS[0], "get": 0, "delete": 0, "head": 0}
    Known(store=work.store, settings="s").find([Row(id="a", messages=(Message("assistant", "b"),))], 0)
    assert asked["put"] == 2 * WORKER_PUTS[0] + 1, "a featuriser's one more"
    assert WORKER_PUTS[1] == WORKER_PUTS[0] + 1
    clear_marks([work])
    assert asked["delete"] == 2, "one a unit"
    assert len(work.store.commits()) == asked["get"] == 2, "one a unit"
    work.store.read(work.store.find(0))
    assert asked["get"] == 2 + 2, "whoever reads a unit asks for its record and its file"
