"""Candidates that a generator writes for a round: asked for, read, and cleared of what is not new.

A sample is dropped where it is, or nearly is, a row that is there already (of the pool, of an earlier round, of any
split of the target, or earlier among the new ones), or where it repeats a row of the target (see `generation.guard`).
Everything that is dropped lies in quarantine with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from evoray.config import GenerationConfig
from evoray.engine.generators import SAMPLE_SCHEMA, GenerateJob
from evoray.engine.pools import Pool
from evoray.engine.proxy import identify_model
from evoray.engine.purse import Purse
from evoray.engine.remote import in_task
from evoray.engine.selected import reason_counts
from evoray.engine.site import Site, fingerprint
from evoray.engine.stages import Target
from evoray.engine.units import Work, run_units
from evoray.generation.guard import Guard
from evoray.generation.prompts import TEMPLATE, Prompting
from evoray.pool import find_target, load_rows, read_target_split, write_quarantine_table
from evoray.pool.near_duplicates import find_near_duplicates, plain
from evoray.records import Quarantined, Row
from evoray.selection.picks import random_key
from evoray.storage import Storage, UnitStore

GENERATED = "generated"
#: Settings that change what is asked or what becomes of the answers; the others say how fast and how much.
_CONTENT = (
    "source", "model", "per_request", "examples", "form", "prompt", "system", "temperature", "top_p",
    "max_new_tokens", "unit_requests", "batch_tokens", "precision", "samples",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Who writes candidates, and for what."""

    config: GenerationConfig
    identity: str  # of the model; at an endpoint its name
    align: Target
    target: str  # path
    seed: int

    @classmethod
    def of(cls, config: GenerationConfig, align: Target, target: str, seed: int, site: Site) -> Generator:
        """Settle precision and identity. Raises ConfigError for a template that cannot be rendered."""
        Prompting(template=config.prompt or TEMPLATE, form=config.form, count=config.per_request).check()
        settled = site.session.settled(config)
        name = identity = config.model
        if config.source != "endpoint":
            name, identity = identify_model(config.model, site.events)
        settled = settled.model_copy(update={"model": name})
        return cls(config=settled, identity=identity, align=align, target=target, seed=seed)

    def fingerprint(self, number: int) -> str:
        """Of what is asked for in a round."""
        kept = {name: value for name, value in self.config.model_dump().items() if name in _CONTENT}
        return fingerprint(
            config=kept, model=self.identity, align=self.align.source.identity, seed=self.seed, round=number
        )


def candidates_key(number: int) -> str:
    """Where the candidates of a round are."""
    return f"{GENERATED}/round-{number:04d}.parquet"


def generate(generator: Generator, number: int, static: Pool | None, site: Site) -> dict[str, Any]:
    """Write the candidates of a round, beside a static pool or none; the facts of it. Resumable.

    Raises StageError for an endpoint that does not answer, ConfigError for one that refuses.
    """
    config, storage = generator.config, site.storage
    name = generator.fingerprint(number)
    prefix, quarantine = f"{GENERATED}/{name}", f"quarantine/generated-{name}"
    requests = -(-config.samples // config.per_request)
    units = range(-(-requests // config.unit_requests))
    store = UnitStore(storage, prefix)
    purse = _purse(config, site)
    job = GenerateJob(
        align=generator.align.source,
        config=config,
        round=number,
        seed=random_key(f"generate:{number}", generator.seed) % 2**31,
        requests=requests,
        storage=storage,
        prefix=prefix,
        workers=min(site.session.workers, len(units)),
        purse=purse,
    )
    try:
        with site.events.stage(f"generate {number}", len(units)) as stage:
            work = Work(stage="generate", units=tuple(units), factory=job, store=store, quarantine=quarantine)
            run_units([work], replace(site.session, stall=max(site.session.stall, _slowest(job))), stage)
    finally:
        if purse is not None:
            purse.close()
    for key in list(storage.keys(f"{prefix}/answers")):
        storage.delete(key)  # their units are committed
    with site.events.stage(f"clear {number}", 1) as stage:
        dropped = in_task(_clear, store, generator.target, config.near, static, number, quarantine)
        stage.advance()
    commits = store.commits().values()
    total = {fact: sum(int(commit.facts.get(fact, 0)) for commit in commits) for fact in _COUNTED}
    reasons = reason_counts(storage, storage.keys(quarantine))
    return {**total, "dropped": dropped, "reasons": reasons, "kept": total["samples"] - dropped, "name": name}


def _slowest(job: GenerateJob) -> float:
    """Twice the seconds that a unit takes at the rate that is allowed, or where every answer takes as long as one may:
    it stands still no sooner."""
    config = job.config
    if config.source != "endpoint":
        return 0.0
    turns = -(-config.unit_requests // job.under_way)
    rate = 0.0 if config.requests_per_minute is None else config.unit_requests * job.workers * 60
    return 2 * max(turns * config.timeout, rate / (config.requests_per_minute or 1))


_COUNTED = (
    "requests", "attempts", "answered", "skipped", "prompt_tokens", "completion_tokens", "samples", "refused",
)  # fmt: skip


def _purse(config: GenerationConfig, site: Site) -> Purse | None:
    """What is left of the budget, after all that was ever asked for in this storage."""
    if config.max_requests is None and config.max_tokens is None:
        return None
    attempts, tokens = spent(site.storage)
    requests = None if config.max_requests is None else max(0, config.max_requests - attempts)
    left = None if config.max_tokens is None else max(0, config.max_tokens - tokens)
    return Purse(requests, left, config.max_new_tokens)


def spent(storage: Storage) -> tuple[int, int]:
    """Attempts at requests, and tokens read and written, of all generators below a storage.

    Not known are attempts that were under way when their process was killed.
    """
    attempts = tokens = 0
    keys = list(storage.keys(GENERATED))
    counted: dict[str, set[int]] = {}  # requests of committed units, by generator
    for key in keys:
        _, name, *rest = key.split("/")
        if len(rest) == 1 and rest[0].startswith("unit-") and rest[0].endswith(".json"):
            facts = storage.read_json(key)["facts"]
            attempts += facts.get("attempts", 0)  # of a model in the workers there are none
            tokens += facts["prompt_tokens"] + facts["completion_tokens"]
            first = facts.get("first_request", 0)
            counted.setdefault(name, set()).update(range(first, first + facts["requests"]))
    for key in keys:
        _, name, *rest = key.split("/")
        if len(rest) == 2 and int(rest[1].partition(".")[0]) not in counted.get(name, ()):
            answer = storage.read_json(key)
            attempts += answer.get("failures", 1)
            tokens += answer.get("prompt_tokens", 0) + answer.get("completion_tokens", 0)
    return attempts, tokens


def _clear(store: UnitStore, target: str, near: float, static: Pool | None, number: int, quarantine: str) -> int:
    """Write the samples that are new; how many are not."""
    storage = store.storage
    table = pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *store.tables(store.committed())])
    texts = [
        _text_of_sample(*parts)
        for parts in zip(table["instruction"].to_pylist(), table["output"].to_pylist(), strict=True)
    ]
    splits = _splits(target)
    guard = Guard((split, _text(row)) for split, rows in splits.items() for row in rows)
    repeats = [guard.repeats(text) for text in texts]
    held = [(f"{split} row", _text(row)) for split, rows in splits.items() for row in rows]
    held += [(f"pool row {row.id}", _text(row)) for row in _rows_before(static, storage, number)]
    open_ = [place for place, repeated in enumerate(repeats) if repeated is None]
    names = [name for name, _ in held] + [f"sample {table['id'][place].as_py()}" for place in open_]
    plains = [plain(text) for _, text in held] + [plain(texts[place]) for place in open_]
    near_to = find_near_duplicates(plains, near, held=len(held))
    reasons = {place: ("repeats the target", str(found)) for place, found in enumerate(repeats) if found is not None}
    for one, first in near_to.items():
        exact = plains[one] == plains[first]
        reasons[open_[one - len(held)]] = ("duplicate" if exact else "near-duplicate", f"of {names[first]}")
    keep = [place for place in range(table.num_rows) if place not in reasons]
    storage.write_table(candidates_key(number), table.take(pa.array(keep, pa.int64())))
    storage.write_table(f"{quarantine}/cleared.parquet", _dropped(table, reasons))
    return len(reasons)


def _dropped(table: pa.Table, reasons: dict[int, tuple[str, str]]) -> pa.Table:
    """What was dropped, as quarantine records; the sample itself is in the detail."""
    records = []
    for place, (reason, detail) in sorted(reasons.items()):
        (row,) = table.slice(place, 1).to_pylist()
        sample = json.dumps({"instruction": row["instruction"], "output": row["output"]}, ensure_ascii=False)[:500]
        records.append(
            Quarantined(
                id=row["id"], stage="clear", reason=reason, detail=f"{detail}; {sample}",
                file=row["generation_model"], row=row["generation_request"],
            )
        )  # fmt: skip
    return write_quarantine_table(records)


def _splits(target: str) -> dict[str, list[Row]]:
    """All rows of the target, test rows too: nothing else than this guard reads them before the final table."""
    names: tuple[Any, ...] = ("align", "validate", "test") if find_target(target).test else ("align", "validate")
    return {name: read_target_split(target, name, 0)[0] for name in names}


def _rows_before(static: Pool | None, storage: Any, number: int) -> Sequence[Row]:
    """Rows of the static pool and candidates of earlier rounds."""
    rows: list[Row] = []
    if static is not None:
        rows += [row for unit in static.units for row in static.rows.read(unit)]
    for earlier in range(1, number):
        if storage.read_table(candidates_key(earlier), ["id"]).num_rows:
            rows += load_rows(storage.location(candidates_key(earlier)))[0]
    return rows


def _text(row: Row) -> str:
    *asked, told = (message.content for message in row.messages)
    return _text_of_sample("\n\n".join(asked), told)


def _text_of_sample(question: str, response: str) -> str:
    return f"{question}\n{response}"
