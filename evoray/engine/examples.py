"""Some of the chosen rows with what they say and the target rows nearest to them, and some of the rows set aside.

A report is read by people: texts are cut here, so that a summary stays small whatever a pool holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from evoray.engine.remote import in_task
from evoray.engine.site import Source
from evoray.pool import load_rows
from evoray.records import Row
from evoray.report.evidence import Example, Sample, SetAside
from evoray.storage import Storage

_PICKS = 8  # half of them the best, the others spread over the rest
_OF_A_REASON, _REASONS = 5, 40
_BATCH = 1000
_ID, _TEXT, _DETAIL = 120, 600, 300  # letters


def pick_examples(storage: Storage, key: str, align: Source, max_chars: int) -> tuple[Example, ...]:
    """Some of the rows that a selection wrote to this key, and the rows of the target that are nearest to them."""
    return in_task(_pick_examples, storage, key, align, max_chars)


def _pick_examples(storage: Storage, key: str, align: Source, max_chars: int) -> tuple[Example, ...]:
    columns = ["id", "evoray_rank", "evoray_similarity", "evoray_nearest"]
    picks = sorted(storage.read_table(key, columns).to_pylist(), key=lambda pick: int(pick["evoray_rank"]))
    shown = [picks[place] for place in _places(len(picks))]
    wanted = {pick["id"] for pick in shown}
    rows = {row.id: row for row in load_rows(storage.location(key), max_chars)[0] if row.id in wanted}
    targets = {row.id: row for row in align.read()}
    return tuple(
        Example(
            rank=pick["evoray_rank"] + 1,
            row=sample(rows[pick["id"]]),
            similarity=pick["evoray_similarity"],
            nearest=sample(targets[pick["evoray_nearest"]]) if pick["evoray_nearest"] in targets else None,
        )
        for pick in shown
        if pick["id"] in rows
    )


def _places(count: int) -> list[int]:
    """The first half of those that are shown, and as many evenly over what follows."""
    if count <= _PICKS:
        return list(range(count))
    first = _PICKS // 2
    rest = _PICKS - first
    return [*range(first), *(first + (place + 1) * (count - first) // rest - 1 for place in range(rest))]


def sample(row: Row) -> Sample:
    """A row with its texts cut: the last answer, and before it what it answers."""
    *before, last = row.messages
    named = len(before) > 1
    prompt = "\n".join(f"{turn.role}: {turn.content}" if named else turn.content for turn in before)
    source = None if row.source is None else cut(row.source, _ID)
    return Sample(id=cut(row.id, _ID), source=source, prompt=cut(prompt, _TEXT), response=cut(last.content, _TEXT))


def set_aside_examples(storage: Storage, prefixes: Mapping[str, Sequence[str]]) -> tuple[SetAside, ...]:
    """Some rows of each reason in quarantine tables. prefixes: keys of tables by what is put before their reasons."""
    return in_task(_set_aside_examples, storage, {name: list(keys) for name, keys in prefixes.items()})


def _set_aside_examples(storage: Storage, keys: Mapping[str, Sequence[str]]) -> tuple[SetAside, ...]:
    found: dict[str, list[SetAside]] = {}
    for before, names in keys.items():
        for name in names:
            for record in _records(storage, name):
                reason = before + record["reason"]
                known = found.setdefault(reason, []) if reason in found or len(found) < _REASONS else None
                if known is not None and len(known) < _OF_A_REASON:
                    known.append(
                        SetAside(
                            id=cut(record["id"], _ID),
                            reason=cut(reason, _ID),
                            detail=cut(record["detail"] or "", _DETAIL),
                            file=cut(PurePosixPath(record["file"] or "").name, _ID),
                            row=record["row"] if record["row"] >= 0 else None,
                        )
                    )
    return tuple(one for rows in found.values() for one in rows)


def _records(storage: Storage, key: str) -> Iterator[dict[str, Any]]:
    """Row by row: a table of rows set aside may be long, and few of them are shown."""
    for batch in storage.read_table(key).to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def cut(text: str, most: int) -> str:
    """At most so many letters; halves of letters, which no file can hold, are replaced."""
    whole = text.encode("utf-8", "replace").decode()
    return whole if len(whole) <= most else whole[: most - 1] + "…"
