"""What the model of a round makes of the rows that it was trained on: feedback for later rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from evoray.config import FeedbackConfig
from evoray.engine.context import Context
from evoray.engine.proxy import Checkpoint
from evoray.engine.rundir import SELECTED, Rounds
from evoray.engine.selectors import needs_of
from evoray.engine.site import fingerprint
from evoray.engine.units import UnitResult, UnitWorker, Work, run_units
from evoray.engine.workers import FileRows
from evoray.evaluation.metric import Metric, find_metric, load_metric
from evoray.models.folder import Folder
from evoray.storage import UnitStore

ANSWERED = "answered"


@dataclass(frozen=True, kw_only=True)
class FeedbackJob:
    """Gold answers beside those of a model."""

    source: FileRows
    model: str
    adapter: Folder | None
    config: FeedbackConfig  # precision settled
    metric: Metric | None
    max_tokens: int

    def __call__(self) -> UnitWorker:
        return _Answering(self)


class _Answering(UnitWorker):
    def __init__(self, job: FeedbackJob) -> None:
        from evoray.models.loading import autocast_dtype, load_for_inference, load_tokenizer

        self.job, self.precision = job, autocast_dtype(job.config.precision)
        folder = None if job.adapter is None else job.adapter.fetch()
        self.model = load_for_inference(job.model, folder, self.precision, merge=True)
        self.tokenizer = load_tokenizer(job.model)
        self.judge = None if job.metric is None else load_metric(job.metric, bounded=False)

    def compute(self, unit: int) -> UnitResult:
        """The scores of one unit's rows."""
        from evoray.evaluation.feedback import gold_advantage

        rows, config = self.job.source.read(unit), self.job.config
        found = gold_advantage(
            self.model, self.tokenizer, rows, self.job.max_tokens, config.max_new_tokens,
            judge=self.judge, token_budget=config.pass_tokens, autocast=self.precision,
        )  # fmt: skip
        table = {"id": [row.id for row in rows], "advantage": pa.array(found, pa.float64())}
        return UnitResult(table=pa.table(table), facts={})


def feedback_identity(config: FeedbackConfig) -> str | None:
    """The fingerprint of a scorer of the user's own; None for one of evoray's."""
    return find_metric(config.scorer).digest if ":" in config.scorer else None


def feedback_before(context: Context, number: int) -> dict[str, float]:
    """What earlier rounds learnt, by row; the states that hold it are made where they are missing."""
    if not needs_of(context.config.selection).feedback:
        return {}
    records = [
        context.rounds.step(earlier, ANSWERED, lambda earlier=earlier: _answer(context, earlier))  # type: ignore[misc]
        for earlier in range(1, number)
    ]
    return {row_id: score for record in records for row_id, score in record["scores"].items()}


def _answer(context: Context, number: int) -> dict[str, Any]:
    """Have the model of a round answer the rows that were chosen in it."""
    site, config = context.site, context.site.session.settled(context.config.feedback)
    path = context.storage.location(f"{Rounds.prefix(number)}/{SELECTED}")
    rows = int(context.record(number, "selected")["rows"])
    source = FileRows(path=path, unit_rows=context.config.reading.unit_rows, max_chars=context.config.reading.max_chars)
    metric = find_metric(config.scorer) if ":" in config.scorer else None
    model = Checkpoint.of(context.config.model, context.model_identity, context.adapter(number, "adapter"))
    job = FeedbackJob(
        source=source, model=model.model, adapter=model.adapter, config=config, metric=metric,
        max_tokens=context.config.features.max_tokens,
    )  # fmt: skip
    name = fingerprint(
        rows=context.record(number, "selected")["digest"], pool=context.pool.fingerprint, model=model.identity,
        config=config.model_dump(), metric=None if metric is None else metric.digest, max_tokens=job.max_tokens,
        unit_rows=source.unit_rows,
    )  # fmt: skip
    units = tuple(range(-(-rows // source.unit_rows)))
    store = UnitStore(site.storage, f"feedback/{name}")
    work = Work(
        stage="answer",
        units=units,
        factory=job,
        store=store,
        quarantine=f"quarantine/feedback-{name}",
        own_code=metric is not None,
    )
    with site.events.stage(f"answer rows of round {number}", len(units)) as stage:
        run_units([work], site.session, stage)
    scores: dict[str, float] = {}
    for table in store.tables(store.committed()):
        found = table.to_pydict()
        pairs = zip(found["id"], found["advantage"], strict=True)
        scores |= {row_id: value for row_id, value in pairs if value is not None and math.isfinite(value)}
    return {"scores": scores, "rows": rows, "mean": sum(scores.values()) / len(scores) if scores else None}
