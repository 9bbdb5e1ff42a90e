"""Write the demo: a pool as a weak generator would fill it, a target in three splits, and the labels aside.

The facts of the target task are split by entity (the country), with a seed: a country that the
target asks about is never a subject of an on-task row of the pool, so a better score on the test split is
a better answer to new questions, not a remembered one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evoray.demo import weak_generator as weak
from evoray.demo.fact import Fact
from evoray.demo.facts import other_facts, target_facts
from evoray.demo.weak_generator import Draft, Label
from evoray.errors import ConfigError

#: Shares of the pool; good rows are what is left. Unusable rows are a part of the broken ones, kept below
#: the share at which a reader that sets rows aside gives up.
_SHARES: Mapping[Label, float] = {
    Label.WRONG: 0.30,
    Label.DUPLICATE: 0.10,
    Label.OFF_TASK: 0.30,
    Label.BROKEN: 0.08,
}
_UNUSABLE_SHARE = 0.02
_EXACT_COPY_SHARE = 0.15  # of the duplicates
_CHATTER_SHARE = 0.15  # of the off-task rows
_CHOICES = 4


@dataclass(frozen=True, kw_only=True)
class DemoFiles:
    """Where the demo lies. `labels` is for judging a selection afterwards, never for making one."""

    pool: Path
    align: Path
    validate: Path
    test: Path
    labels: Path


def write_demo(
    folder: Path,
    seed: int,
    *,
    pool_rows: int = 600,
    align_rows: int = 48,
    validate_rows: int = 48,
    test_rows: int = 200,
) -> DemoFiles:
    """Write the demo data below `folder` (made if needed); the same arguments give the same bytes.

    `pool.jsonl` has id, source, instruction, output and sometimes input; `target/*.jsonl` have id, subtask,
    instruction, output, choices (4) and answer; `labels.parquet` has id and label (a `Label`) of every
    pool row. Raises ConfigError where there are too few facts for the rows asked for.
    """
    rng = random.Random(seed)
    splits, kept = _split(target_facts(), (align_rows, validate_rows, test_rows), rng)
    drafts = _draft_pool(kept, pool_rows, rng)
    ids = [f"pool-{number:05d}" for number in range(len(drafts))]
    files = DemoFiles(
        pool=folder / "pool.jsonl",
        align=folder / "target" / "align.jsonl",
        validate=folder / "target" / "validate.jsonl",
        test=folder / "target" / "test.jsonl",
        labels=folder / "labels.parquet",
    )
    files.align.parent.mkdir(parents=True, exist_ok=True)
    _write_lines(files.pool, [_pool_row(id_, draft) for id_, draft in zip(ids, drafts, strict=True)])
    for path, facts in zip((files.align, files.validate, files.test), splits, strict=True):
        _write_lines(path, [_target_row(f"{path.stem}-{n:04d}", fact, rng) for n, fact in enumerate(facts)])
    labels = pa.table({"id": ids, "label": [draft.label.value for draft in drafts]})
    pq.write_table(labels, files.labels)
    return files


def _split(
    facts: Sequence[Fact], sizes: tuple[int, int, int], rng: random.Random
) -> tuple[list[list[Fact]], list[Fact]]:
    """Facts of the three target splits, and those left for the pool; no entity is on both sides, or in two splits."""
    by_entity: dict[str, list[Fact]] = {}
    for fact in facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    entities = sorted(by_entity)
    rng.shuffle(entities)
    splits: list[list[Fact]] = []
    for size in sizes:
        chosen: list[Fact] = []
        while len(chosen) < size and entities:
            chosen.extend(by_entity[entities.pop()])
        # The last entity may bring more facts than there is room for; what is cut off is used nowhere.
        splits.append(rng.sample(chosen[:size], len(chosen[:size])))
    kept = [fact for entity in entities for fact in by_entity[entity]]
    if not kept:
        raise ConfigError(
            f"target splits of {sizes} rows (align, validate, test)",
            f"fewer than {len(facts)} rows together, so that facts are left for the pool",
            "ask for smaller splits",
        )
    return splits, kept


def _draft_pool(facts: Sequence[Fact], rows: int, rng: random.Random) -> list[Draft]:
    """All rows of the pool, shuffled. `facts` are those of the target task that the pool may use."""
    counts = {label: round(share * rows) for label, share in _SHARES.items()}
    good = _good_rows(facts, rows - sum(counts.values()), rng)
    copies = round(_EXACT_COPY_SHARE * counts[Label.DUPLICATE])
    others = other_facts()
    talk = round(_CHATTER_SHARE * counts[Label.OFF_TASK])
    unusable = round(_UNUSABLE_SHARE * rows)
    anything = [*facts, *rng.sample(others, len(facts))]
    drafts = [
        *good,
        *(weak.wrong(fact, rng) for fact in _draw(facts, counts[Label.WRONG], rng)),
        *(weak.exact_copy(row) for row in rng.choices(good, k=copies)),
        *(weak.duplicate(row, rng) for row in rng.choices(good, k=counts[Label.DUPLICATE] - copies)),
        *(weak.off_task(fact, rng) for fact in _draw(others, counts[Label.OFF_TASK] - talk, rng)),
        *(weak.chatter(rng) for _ in range(talk)),
        *(weak.unusable(fact, rng) for fact in _draw(anything, unusable, rng)),
        *(weak.broken(fact, rng) for fact in _draw(anything, counts[Label.BROKEN] - unusable, rng)),
    ]
    rng.shuffle(drafts)
    return drafts


def _good_rows(facts: Sequence[Fact], rows: int, rng: random.Random) -> list[Draft]:
    """Distinct right rows: every fact once before any fact is asked for in a second wording."""
    order = rng.sample(facts, len(facts))
    first_wording = [rng.randrange(len(fact.questions)) for fact in order]
    wordings = min(len(fact.questions) for fact in order)
    asked = [
        weak.good(fact, (first + turn) % len(fact.questions))
        for turn in range(wordings)
        for fact, first in zip(order, first_wording, strict=True)
    ]
    if not 0 < rows <= len(asked):
        raise ConfigError(
            f"a pool with {rows} good rows",
            f"between 1 and {len(asked)}, as many as the facts left by the target splits allow",
            "change the number of pool rows or ask for smaller target splits",
        )
    return asked[:rows]


def _draw(facts: Sequence[Fact], count: int, rng: random.Random) -> list[Fact]:
    """`count` facts in random order, none twice before all were drawn once."""
    drawn: list[Fact] = []
    while len(drawn) < count:
        drawn.extend(rng.sample(facts, min(len(facts), count - len(drawn))))
    return drawn


def _pool_row(id_: str, draft: Draft) -> dict[str, Any]:
    row = {"id": id_, "source": draft.source, "instruction": draft.instruction, "input": draft.input}
    return {key: value for key, value in {**row, "output": draft.output}.items() if value is not None}


def _target_row(id_: str, fact: Fact, rng: random.Random) -> dict[str, Any]:
    choices = [fact.answer, *rng.sample(fact.wrong, _CHOICES - 1)]
    rng.shuffle(choices)
    return {
        "id": id_,
        "subtask": fact.kind,
        "instruction": rng.choice(fact.questions),
        "output": fact.answer,
        "choices": choices,
        "answer": fact.answer,
    }


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
