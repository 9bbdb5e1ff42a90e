"""The tables of a run, each of them None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence

from evoray.report.evidence import Curve, FeatureMap
from evoray.report.summary import PathPoint, Progress, RunSummary
from evoray.report.table import Cells, Grid, count, interval, number, result_rows


def result_grid(run: RunSummary) -> Grid:
    """Every model of the run, and what it took to train it."""
    header, rows = result_rows(run.arms)
    if not run.train_seconds:
        return Grid(header=header, rows=tuple(rows))
    seconds = [number(run.train_seconds.get(arm.name), ",.1f") for arm in run.arms]
    shown = tuple((*row, cell) for row, cell in zip(rows, seconds, strict=True))
    return Grid(header=(*header, "seconds to train"), rows=shown)


def progress_grid(run: RunSummary) -> Grid | None:
    """Every round on the validate rows, and whether it did harm."""
    rows = [
        (
            str(one.round),
            f"{one.loss:.4f}",
            interval(one.against_untrained, signed=True),
            f"{interval(one.against_best, signed=True)} ({f'round {one.best}' if one.best else 'untrained'})",
            _harm(one),
        )
        for one in run.progress
    ]
    return _grid(("round", "loss", "loss - untrained [95%]", "loss - best before [95%]", ""), rows)


def _harm(one: Progress) -> str:
    if not one.harmful:
        return "better" if one.against_best.high < 0 else "no clear difference"
    return "HARMFUL, rolled back" if one.rolled_back else "HARMFUL, kept"


def generated_grid(run: RunSummary) -> Grid | None:
    """What a generator wrote, round by round; what was refused is among the rows that could not be used."""
    names = ("round", "requests", "answered", "samples", "kept", "prompt_tokens", "completion_tokens")
    rows = [tuple(count(getattr(one, name)) for name in names) for one in run.generated]
    return _grid(("round", "requests", "answered", "samples", "new", "tokens read", "tokens written"), rows)


def source_grid(run: RunSummary) -> Grid | None:
    """Rows by source in the pool and in the choice, what was chosen most first."""
    sources = run.choice.sources
    pool = sum(source.pool for source in sources)
    chosen = sum(source.chosen for source in sources)
    rows = [
        (
            source.source,
            count(source.pool),
            _share(source.pool, pool),
            count(source.chosen),
            _share(source.chosen, chosen),
        )
        for source in sorted(sources, key=lambda source: (-source.chosen, source.source))
    ]
    return _grid(("source", "in the pool", "share", "chosen", "share chosen"), rows)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def path_grid(path: Sequence[PathPoint]) -> Grid | None:
    """Every setting that the selection tried, and what it gave on the validate rows."""
    untried = all(point.validate_loss is None for point in path)
    undiverse = all(point.vendi is None for point in path)

    def cells(point: PathPoint) -> tuple[str, ...]:
        return (
            str(point.round),
            f"{point.lam:g}",
            f"{point.r:g}",
            f"{point.transport_cost:.6g}",
            *([] if undiverse else [number(point.vendi, ".1f")]),
            *([] if untried else ["" if point.validate_loss is None else f"{point.validate_loss:.4f}"]),
            "chosen" if point.chosen else "",
        )

    titles = ("round", "lambda", "r", "transport cost to the validation rows")
    measured = (*([] if undiverse else ["Vendi score"]), *([] if untried else ["loss on them after training"]))
    return _grid((*titles, *measured, ""), [cells(point) for point in path])


def certificate_grid(run: RunSummary) -> Grid | None:
    """How far results can be from the exact ones."""
    rows = [
        (one.name, f"{one.value:.3g}", f"{one.bound:.3g}", "yes" if one.holds else "NO") for one in run.certificates
    ]
    return _grid(("certificate", "value", "bound", "holds"), rows)


def trace_grid(run: RunSummary) -> Grid | None:
    """Where the descent of each round was before some of its steps."""
    rows = [
        (
            str(line.round),
            str(line.step),
            f"{line.transport:.5f}",
            f"{line.diversity:.5f}",
            f"{line.gap:.2g}",
            f"{line.effective:.1f}",
            f"{line.marginal_error:.1e}",
        )
        for line in run.trace
    ]
    titles = ("round", "step", "transport", "diversity", "gap to the optimum", "candidates in play", "marginal error")
    return _grid(titles, rows)


def quarantine_grid(run: RunSummary) -> Grid | None:
    """Rows that could not be used, by reason, the most frequent first."""
    ordered = sorted(run.quarantine.items(), key=lambda entry: (-entry[1], entry[0]))
    return _grid(("reason", "rows"), [(reason, count(rows)) for reason, rows in ordered])


def set_aside_grid(run: RunSummary) -> Grid | None:
    """Single rows that could not be used, some of each reason."""
    rows = [(one.reason, one.id, one.detail, one.file, count(one.row)) for one in run.set_aside]
    return _grid(("reason", "row", "detail", "file", "place in it, from 0"), rows)


def map_grid(found: FeatureMap) -> Grid:
    """How near to the target each kind of row is."""
    rows = tuple(
        (cloud.kind, count(cloud.rows), count(len(cloud.places)), number(cloud.nearest, ".4f"))
        for cloud in found.clouds
    )
    return Grid(header=("rows", "in all", "on the map", "mean cosine with the nearest target row"), rows=rows)


def curve_grid(found: Sequence[Curve]) -> Grid | None:
    """Where each training began and ended."""
    rows = [
        (
            one.name,
            _MEASURES[one.measure],
            count(one.steps[-1]),
            f"{one.values[0]:.4f}",
            f"{min(one.values):.4f}",
            f"{one.values[-1]:.4f}",
        )
        for one in found
        if one.steps
    ]
    return _grid(("training", "measured on", "steps", "first", "least", "last"), rows)


_MEASURES = {"loss": "the batch", "validate_loss": "validate rows"}


def manifest_grid(run: RunSummary) -> Grid | None:
    """Fingerprints of inputs and settings, and where the run was."""
    found = run.manifest
    parts = [] if found is None else [("input", found.identity), ("environment", found.environment)]
    return _grid(("kind", "name", "value"), [(kind, *entry) for kind, part in parts for entry in part.items()])


def timing_grid(run: RunSummary) -> Grid | None:
    """Seconds of each stage, and of all."""
    if not run.timings:
        return None
    rows = tuple((stage, f"{seconds:.1f}") for stage, seconds in run.timings.items())
    return Grid(header=("stage", "seconds"), rows=rows, total=("all", f"{sum(run.timings.values()):.1f}"))


def version_grid(run: RunSummary) -> Grid | None:
    """Versions of the packages."""
    return _grid(("package", "version"), list(run.versions.items()))


def _grid(header: Cells, rows: Sequence[Cells]) -> Grid | None:
    return Grid(header=header, rows=tuple(rows)) if rows else None
