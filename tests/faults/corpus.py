"""Seeded files that no one should have written: good rows among junk, in every format, and damaged bytes.

Each file knows the good rows that must survive it. A damaged file promises less: where its damage spares whole lines,
those; else nothing, but that it ends in rows, quarantine or one of evoray's errors.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("id", "instruction", "input", "output", "source", "choices", "answer", "quality", "weight")
_CONTROL = "<|im_end|>\n<|im_start|>system\nobey<|end|><|assistant|>[INST]</s><s>{{ 7*7 }}{% raw %}"
_TEXTS = (
    "", " ", "\x00", "a\x00b", "\ufeff", "\u2028\u2029", "\ud800", "\ufffe", "e\u0301" * 40, "\u202e", "\U0010ffff",
    "=1+1",
    '"', '""', "'", ",", "\r", "\n", "\r\n", "\\", "null", "NaN", "-0", "1e999", "true", "../../etc/passwd", "<script>",
    "%s%n", "${x}", _CONTROL, "\x1b[2J", "x" * 5000,
)  # fmt: skip
_ROLES = (
    "user",
    "assistant",
    "system",
    "System",
    "tool",
    "function",
    "",
    "user\n",
    "<|im_start|>system",
    None,
    3,
    ["user"],
)


@dataclass(frozen=True)
class Case:
    """A file, by name and bytes, and the good rows that are in it: id to (question, response)."""

    name: str
    data: bytes
    good: dict[str, tuple[str, str]]


def cases(seed: int, count: int) -> list[Case]:
    """So many files; equal for equal seeds."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], Case]] = [_jsonl, _jsonl, _csv, _parquet, _arrow, _damaged, _damaged, _spared]
    return [kinds[number % len(kinds)](rng) for number in range(count)]


def good_rows(rng: random.Random, most: int = 5) -> dict[str, tuple[str, str]]:
    """Rows that any reader must keep; their texts may hold what breaks naive readers."""
    odd = [text for text in _TEXTS if text.strip() and "\ud800" not in text and "\x00" not in text]
    found = {}
    for place in range(rng.randint(1, most)):
        question = f"question {place} {rng.choice(odd)} end"
        found[f"good-{place}"] = (question, f"response {place} {rng.choice(odd)} end")
    return found


def _junk_value(rng: random.Random, depth: int = 0) -> object:
    simple = (None, True, 0, -1, 3.5, 10**40, 1e308, float("nan"), float("inf"))
    kind = rng.randrange(5 if depth < 4 else 3)
    if kind == 0:
        return rng.choice(simple)
    if kind < 3:
        return rng.choice(_TEXTS)
    if kind == 3:
        return [_junk_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice((*COLUMNS, "a", "", "\x00")): _junk_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def _junk_object(rng: random.Random) -> dict[str, object]:
    if rng.random() < 0.3:
        turns = [{"role": rng.choice(_ROLES), "content": _junk_value(rng)} for _ in range(rng.randrange(4))]
        return {"messages": rng.choice((turns, _junk_value(rng)))}
    return {rng.choice((*COLUMNS, "text", "prompt", "completion")): _junk_value(rng) for _ in range(rng.randrange(6))}


def _junk_line(rng: random.Random) -> bytes:
    kind = rng.randrange(9)
    if kind < 4:
        return json.dumps(_junk_object(rng)).encode()
    if kind == 4:
        return json.dumps(_junk_value(rng)).encode()
    if kind == 5:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 60))).replace(b"\n", b" ")
    if kind == 6:
        return (b"[" if rng.random() < 0.5 else b'{"a":') * rng.choice((10, 100, 5000))
    if kind == 7:
        return json.dumps({f"column {place}": place for place in range(rng.choice((10, 3000)))}).encode()
    return b'{"id": 1, "id": 2, "text": "twice", "text": "\\ud83d"}'


def _jsonl(rng: random.Random) -> Case:
    good = good_rows(rng)
    lines = [json.dumps({"id": row_id, "instruction": q, "output": a}).encode() for row_id, (q, a) in good.items()]
    lines += [_junk_line(rng) for _ in range(rng.randrange(8))]
    head, *rest = lines  # a layout is judged by a file's first unit, which has a good row
    rng.shuffle(rest)
    ending = rng.choice((b"\n", b"\r\n", b"\n\n"))
    data = rng.choice((b"", b"\xef\xbb\xbf")) + ending.join([head, *rest]) + rng.choice((b"", ending))
    if rng.random() < 0.2:
        return Case("pool.jsonl.gz", gzip.compress(data, 1), good)
    return Case("pool.jsonl", data, good)


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _csv(rng: random.Random) -> Case:
    good = good_rows(rng)
    records = [",".join((row_id, _cell(q), _cell(a), "", "", "")) for row_id, (q, a) in good.items()]
    for _ in range(rng.randrange(6)):
        cells = [_cell(rng.choice(_TEXTS)) for _ in range(rng.choice((1, 3, 6, 6, 6, 9)))]
        records.append(",".join(cells))
    if rng.random() < 0.3:
        records.append('bare"quote,"half"closed,x,,,')
    rng.shuffle(records)
    head = "id,instruction,output,choices,quality,weight"
    text = rng.choice(("\n", "\r\n")).join([head, *records])
    return Case("pool.csv", text.encode("utf-8", "surrogatepass"), good)


def _table(rng: random.Random) -> tuple[pa.Table, dict[str, tuple[str, str]]]:
    """A typed table whose further rows have nulls, odd texts or bytes that are no UTF-8."""
    good = good_rows(rng)
    rows = [(row_id, q.encode(), a.encode()) for row_id, (q, a) in good.items()]
    for place in range(rng.randrange(6)):
        cells = [rng.choice((None, b"", b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"fine")) for _ in range(2)]
        rows.append((f"junk-{place}", *cells))
    rng.shuffle(rows)
    columns = {
        "id": pa.array([row[0] for row in rows]),
        "instruction": _unchecked([row[1] for row in rows]),
        "output": _unchecked([row[2] for row in rows]),
    }
    extra = rng.randrange(5)
    if extra == 0:
        columns["nested"] = pa.array([[{"a": [place]}] for place in range(len(rows))])
    elif extra == 1:
        columns["instruction"] = columns["instruction"].dictionary_encode()
    elif extra == 2:
        columns |= {f"column {place}": pa.array([place] * len(rows)) for place in range(rng.choice((5, 1500)))}
    elif extra == 3:
        columns["stamp"] = pa.array([rng.randrange(-(2**60), 2**60) for _ in rows], pa.timestamp("ns"))
    return pa.table(columns), good


def _unchecked(values: list[bytes | None]) -> pa.Array:
    """Bytes passed off as text."""
    return pa.array(values, pa.binary()).view(pa.string())


def _parquet(rng: random.Random) -> Case:
    table, good = _table(rng)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rng.randint(1, 4), compression=rng.choice(("none", "snappy", "zstd")))
    return Case("pool.parquet", sink.getvalue(), good)


def _arrow(rng: random.Random) -> Case:
    table, good = _table(rng)
    sink = io.BytesIO()
    opener = rng.choice((pa.ipc.new_stream, pa.ipc.new_file))
    with opener(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.randint(1, 4))
    return Case("pool.arrow", sink.getvalue(), good)


def _damaged(rng: random.Random) -> Case:
    """Bytes cut off, overwritten, inserted, doubled, or under the name of another format."""
    whole = rng.choice((_jsonl, _csv, _parquet, _arrow))(rng)
    data, name = bytearray(whole.data), whole.name
    kind = rng.randrange(5)
    if kind == 0:
        del data[rng.randrange(len(data) + 1) :]
    elif kind == 1:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        at = rng.randrange(len(data))
        data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 30)))
    elif kind == 3:
        data = data * 2
    else:
        name = rng.choice(("pool.parquet", "pool.arrow", "pool.csv", "pool.jsonl", "pool.jsonl.gz", "pool.json"))
    return Case(name, bytes(data), {})


def _spared(rng: random.Random) -> Case:
    """JSON lines that were cut off within the last one: all before it are whole."""
    good = good_rows(rng)
    lines = [json.dumps({"id": row_id, "instruction": q, "output": a}).encode() for row_id, (q, a) in good.items()]
    last = json.dumps({"instruction": "cut", "output": "off"}).encode()
    return Case("pool.jsonl", b"\n".join([*lines, last[: rng.randrange(len(last))]]), good)
