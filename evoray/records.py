"""Records that cross stage boundaries, and the shape legend used in all names of arrays.

Shape suffixes: N candidates, M target rows, D feature dimensions, K picks, B rows of a batch,
T tokens, V vocabulary, R LoRA rank. `cost_NM` is a matrix of N candidates by M target rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

#: Columns that evoray adds to a pool unit beside the columns of the user's file.
MESSAGES_COLUMN = "evoray_messages"  # list<struct<role: string, content: string>>, the last one the assistant's
HASH_COLUMN = "evoray_hash"  # string: SHA-256 (32 hex digits) of the normalised messages

MESSAGES_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

#: Bits of the `flags` column of a feature unit.
FLAG_TRUNCATED = 1
FLAG_NORM_OUTLIER = 2  # the norm is far off those of the unit's other rows


def drawn(salt: str, content: bytes, size: int = 8) -> int:
    """A number of `size` bytes, drawn by what something says and not by where it stands: BLAKE2b, equal in every
    process."""
    return int.from_bytes(hashlib.blake2b(salt.encode() + content, digest_size=size).digest(), "big")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One usable sample after normalisation. Turns of the assistant carry the loss."""

    id: str
    messages: tuple[Message, ...]  # ends with an assistant turn
    source: str | None = None
    choices: tuple[str, ...] | None = None  # options of a multiple-choice question
    answer: str | None = None  # the gold answer; one of `choices` where these are given
    quality: float | None = None
    weight: float = 1.0
    subtask: str | None = None

    @property
    def asks(self) -> bool:
        """Whether there is something to answer: a row of assistant turns alone is raw text."""
        return any(message.role != "assistant" for message in self.messages)


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A row that could not be used, and why. `reason` is a short fixed phrase, `detail` is free text."""

    id: str
    stage: str
    reason: str
    detail: str
    file: str
    row: int  # 0-based position in the file


QUARANTINE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class UnitSpan:
    """A fixed span of rows of one file: what one worker reads, computes and commits at a time."""

    unit: int
    file: str
    format: str  # parquet, arrow, jsonl, csv
    start: int  # first row in the file, 0-based
    rows: int
    offset: int = 0  # byte offset of the first row in line formats


def feature_schema(dim: int) -> pa.Schema:
    """Columns of a feature unit: id, unit-norm feature, norm before normalisation, tokens, loss, flags.

    `supervised` counts the tokens that carry loss; `loss` is null for representations that compute none.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("feature", pa.list_(pa.float32(), dim)),
            ("norm", pa.float32()),
            ("tokens", pa.int32()),
            ("supervised", pa.int32()),
            ("loss", pa.float32()),
            ("flags", pa.uint8()),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one model scored on one split: a row of the final table."""

    loss: float
    loss_low: float  # 95% bootstrap interval
    loss_high: float
    accuracy: float | None  # mean verdict, from 0 to 1; None where no row has one
    accuracy_low: float | None
    accuracy_high: float | None
    rows: int
    facts: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same rows. Differences are model - against, paired by row, with 95% bootstrap intervals."""

    model: Score
    against: Score
    loss: float
    loss_low: float
    loss_high: float
    accuracy: float | None  # None where no row has a verdict on both
    accuracy_low: float | None
    accuracy_high: float | None
    rows: int  # with a loss under both
    verdicts: int  # rows with a verdict on both
