"""What a run is expected to cost, and what it did, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evoray.report.costs import KINDS, Forecast, MachinePrice, kind_of
from evoray.report.table import UNKNOWN, Cells, Grid, count


def forecast_grid(forecast: Forecast) -> Grid:
    """The cost of each kind of stage."""
    rows = [
        (
            one.kind,
            duration(one.seconds),
            UNKNOWN if one.rows is None or one.seconds < 1 else f"{one.rows / one.seconds:,.1f}",
            UNKNOWN if one.bytes is None else size(one.bytes),
            UNKNOWN if one.peak_mb is None else f"{count(round(one.peak_mb))} MB",
        )
        for one in forecast.stages
    ]
    kept = sum(one.bytes or 0 for one in forecast.stages)
    highest = max((one.peak_mb or 0 for one in forecast.stages), default=0)
    total = ("all", duration(forecast.seconds), "", size(kept), f"{count(round(highest))} MB")
    return Grid(header=("stage", "time", "rows/s", "storage", "memory of a process"), rows=tuple(rows), total=total)


def price_grid(prices: Sequence[MachinePrice]) -> Grid | None:
    """What the run costs on each kind of machine."""
    rows = tuple(
        (one.name, count(one.machines), f"{one.hours:.2f}", f"{one.least:,.2f} to {one.most:,.2f}") for one in prices
    )
    return Grid(header=("machine", "number", "machine-hours", "price"), rows=rows) if rows else None


def compared_title(forecast: Forecast | None) -> str:
    """What the table is called: a run on other workers takes another time."""
    by = "" if forecast is None else f" by evoray plan for {count(forecast.workers)} workers"
    return f"Predicted{by}, and taken"


def compared_grid(forecast: Forecast | None, timings: Mapping[str, float]) -> Grid | None:
    """What each kind of stage was expected to take, beside what it took."""
    if forecast is None:
        return None
    expected = {one.kind: one.seconds for one in forecast.stages}
    took: dict[str, float] = {}
    for stage, seconds in timings.items():
        took[kind_of(stage)] = took.get(kind_of(stage), 0.0) + seconds
    rows = [
        _beside(kind, expected.get(kind, 0.0), took.get(kind, 0.0))
        for kind in KINDS
        if kind in expected or kind in took
    ]
    total = _beside("all", forecast.seconds, sum(took.values()))
    return Grid(header=("stage", "predicted", "took", "took / predicted"), rows=tuple(rows), total=total)


def _beside(kind: str, expected: float, took: float) -> Cells:
    ratio = f"{took / expected:.2f}" if expected >= 1 else UNKNOWN
    return kind, f"{expected:.1f} s", f"{took:.1f} s", ratio


def duration(seconds: float) -> str:
    """In its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value][:2]
    return " ".join(shown) or "0 s"


def size(amount: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if round(amount) < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} PB"
