"""Targets and scores, each resumable by its own store.

Every function takes what it works on by fingerprint and returns a small record. Rows and features stay with
the workers and in storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evoray.config import EvaluationConfig
from evoray.engine.proxy import Checkpoint
from evoray.engine.remote import in_task
from evoray.engine.site import Site, Source, fingerprint
from evoray.engine.units import Work, clear_marks, run_units
from evoray.engine.workers import ScoreJob, TargetRows
from evoray.errors import TargetError
from evoray.evaluation.scoring import Scoring
from evoray.pool import Split, read_target_split, write_quarantine_table
from evoray.storage import Storage, UnitStore


@dataclass(frozen=True, kw_only=True)
class Target:
    """One split of the target: its rows, their number and their weights."""

    split: Split
    source: Source
    weights: Mapping[str, float]  # of rows that have another weight than 1
    subtasks: Mapping[str, str]  # of rows that name one
    rows: int
    choices: int  # rows with choices
    questions: int  # rows that ask something: the others are raw text
    quarantine: str | None  # where the unusable rows of its file are; None where there are none

    def weights_of(self, ids: Sequence[str]) -> npt.NDArray[np.float64] | None:
        """Weights of some rows; None where all are equal."""
        return np.array([self.weights.get(row_id, 1.0) for row_id in ids]) if self.weights else None

    def subtasks_of(self, ids: Sequence[str]) -> tuple[str | None, ...] | None:
        """Subtasks of some rows; None where no row names one."""
        return tuple(self.subtasks.get(row_id) for row_id in ids) if self.subtasks else None


def open_target(path: str, split: Split, seed: int, unit_rows: int, site: Site, list_options: bool = False) -> Target:
    """Look at one split of a target (the driver sees counts and weights, no rows). Raises TargetError.

    Rows of its file that cannot be used go to quarantine with their reasons.
    """
    found = in_task(_describe_target, path, split, seed, site.storage)
    if found.quarantine is not None:
        site.events.display.note(f"unusable {split} rows of the target: see {site.storage.location(found.quarantine)}")
    return Target(
        split=split,
        source=Source(
            rows=TargetRows(path=path, split=split, seed=seed, unit_rows=unit_rows, list_options=list_options),
            units=tuple(range(-(-found.rows // unit_rows))),
            identity=fingerprint(content=found.content, unit_rows=unit_rows, list_options=list_options),
        ),
        weights=found.weights,
        subtasks=found.subtasks,
        rows=found.rows,
        choices=found.choices,
        questions=found.questions,
        quarantine=found.quarantine,
    )


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What the driver is told of a target's rows."""

    rows: int
    choices: int
    questions: int
    content: str
    weights: dict[str, float]
    subtasks: dict[str, str]
    quarantine: str | None


def _describe_target(path: str, split: Split, seed: int, storage: Storage) -> _Described:
    rows, refused = read_target_split(path, split, seed)
    weights = {row.id: row.weight for row in rows if row.weight != 1.0}
    quarantine = None
    if refused:  # align and validate cut from one dev file name the same object: its content is its name
        quarantine = f"quarantine/target-{fingerprint(rows=[asdict(record) for record in refused])}.parquet"
        storage.write_table(quarantine, write_quarantine_table(refused))
    return _Described(
        rows=len(rows),
        choices=sum(bool(row.choices) for row in rows),
        questions=sum(row.asks for row in rows),
        content=fingerprint(rows=[asdict(row) for row in rows]),
        weights=weights,
        subtasks={row.id: row.subtask for row in rows if row.subtask is not None},
        quarantine=quarantine,
    )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one model on one split, in the rows' order."""

    ids: tuple[str, ...]
    loss: tuple[float, ...]
    correct: tuple[float | None, ...]  # verdicts from 0 to 1; None where a row has none


def scores_name(model: Checkpoint, target: Target, scoring: Scoring, max_tokens: int) -> str:
    """The fingerprint of the scores of a model on a split: of all that they depend on, and nothing else."""
    return fingerprint(
        source=target.source.identity, model=model.identity, scoring=scoring.identity(), max_tokens=max_tokens
    )


def score(
    models: Mapping[str, Checkpoint], target: Target, config: EvaluationConfig, max_tokens: int, site: Site
) -> dict[str, Scores]:
    """Score models on a split, by name; equal (model, adapter, rows, settings) are scored once.

    Raises ConfigError as `Scoring.of`, and TargetError for a split in which no row can have a verdict.
    """
    source, scoring = target.source, Scoring.of(site.session.settled(config))
    _check_verdicts(target, scoring)
    names: dict[str, str] = {}
    works: dict[str, Work] = {}  # by fingerprint: models of equal weights share one
    for name, model in models.items():
        identity = scores_name(model, target, scoring, max_tokens)
        names[name] = identity
        job = ScoreJob(
            source=source.rows, model=model.model, adapter=model.adapter, scoring=scoring, max_tokens=max_tokens
        )
        works[identity] = Work(
            stage="score",
            units=source.units,
            factory=job,
            store=UnitStore(site.storage, f"scores/{identity}"),
            quarantine=f"quarantine/scores-{identity}",
            careful=job.careful(),
            own_code=scoring.metric is not None,
        )
    if any(set(work.units) - set(work.store.committed()) for work in works.values()):
        _run(works, models, names, target, site)
    else:  # no stage is shown for them; a start that was killed after the last unit may have left marks
        clear_marks(list(works.values()))
    return {name: _read_scores(works[identity]) for name, identity in names.items()}


def _run(
    works: Mapping[str, Work], models: Mapping[str, Checkpoint], names: Mapping[str, str], target: Target, site: Site
) -> None:
    shown = ", ".join(models) if len(models) < 3 else f"{len(models)} models"
    total = len(works) * len(target.source.units)
    with site.events.stage(f"evaluate {shown} on {target.split}", total, fingerprints=dict(names)) as stage:
        run_units(list(works.values()), site.session, stage)


def _check_verdicts(target: Target, scoring: Scoring) -> None:
    scorer = scoring.config.scorer
    if scorer == "choice" and not target.choices:
        raise TargetError(
            f"evaluation.scorer: choice, and no row with choices among {target.rows} {target.split} rows",
            "rows with the columns choices and answer",
            "add them, or set evaluation.scorer: auto, loss or exact_match",
        )
    if scoring.generates and not target.questions:
        raise TargetError(
            f"evaluation.scorer: {scorer}, and raw text alone in {target.rows} {target.split} rows",
            "rows with a question to answer: instruction and output, prompt and completion, or messages",
            "add them, or set evaluation.scorer: loss",
        )


def _read_scores(work: Work) -> Scores:
    table = pa.concat_tables(work.store.tables(work.units, ["id", "loss", "correct"]))
    columns: Mapping[str, list[Any]] = table.to_pydict()
    return Scores(ids=tuple(columns["id"]), loss=tuple(columns["loss"]), correct=tuple(columns["correct"]))
