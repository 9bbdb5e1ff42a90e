"""What a report shows of single rows and steps, as plain values: where rows lie, what some say, how training went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from pydantic.types import Strict

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Strict()]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Cloud:
    """Rows of one kind on the map; where there are many, a sample of them."""

    kind: Literal["pool", "target", "chosen"]
    rows: Count  # of this kind in all
    places: tuple[tuple[float, float], ...]  # of those that are shown
    nearest: float | None = None  # mean, over these, of the largest cosine with a (for the target: another) target row


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FeatureMap:
    """The features of one round in two dimensions: the two directions in which the pool varies most."""

    round: Count
    representation: str
    explained: tuple[float, float]  # part of the pool's variance along each axis
    clouds: tuple[Cloud, ...]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Sample:
    """A row, its texts cut to some length."""

    id: str
    source: str | None = None
    prompt: str  # what the last turn answers; empty for raw text
    response: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Example:
    """One chosen row, and the row of the target that is nearest to it."""

    rank: Count  # from 1
    row: Sample
    similarity: float | None = None  # cosine of the two
    nearest: Sample | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SetAside:
    """A row that could not be used, and why."""

    id: str
    reason: str
    detail: str
    file: str  # its name alone
    row: Count | None = None  # its place there, from 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Curve:
    """What one training measured at its steps; of many, some."""

    name: str
    round: Count
    kind: Literal["chosen", "random", "tried"]
    measure: Literal["loss", "validate_loss"]
    steps: tuple[Count, ...]
    values: tuple[float, ...]  # nats a supervised token


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Manifest:
    """What a run depends on, and where it ran; values are text, or JSON where they are no text."""

    identity: Mapping[str, str]  # fingerprints of inputs and settings
    environment: Mapping[str, str]
