"""Training curves of a run, read back from what was written for TensorBoard: it is there in every run."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from evoray.engine.rundir import Rounds
from evoray.engine.trackers import TENSORBOARD, folder_of
from evoray.report.evidence import Curve
from evoray.storage import Storage

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event

_POINTS = 200  # of one curve at most
_LENGTH, _CHECKSUM = 8, 4  # bytes around each record: its length, and a checksum after the length and after the record

_MEASURES: tuple[Literal["loss", "validate_loss"], ...] = ("loss", "validate_loss")


def training_curves(storage: Storage, number: int) -> list[Curve]:
    """What was measured in the trainings of one round: of what was chosen, of random rows, and of what else was tried.

    Where a curve is not there (a tracker may fail without ending the training), it is left out.
    """
    trials = storage.read_json(f"{Rounds.prefix(number)}/aligned.json").get("trials")
    series: dict[str, tuple[str, Literal["chosen", "random", "tried"]]] = {f"round {number}": ("", "chosen")}
    if trials is not None:
        series = {
            f"choice {place} of round {number}": (f"round {number}, choice {place}", "tried")
            for place in range(len(trials["tried"]))
        }
        series[f"choice {trials['kept']} of round {number}"] = (f"round {number}", "chosen")
    series[f"random {number}"] = ("", "random")
    return [
        Curve(name=name or job, round=number, kind=kind, measure=measure, steps=steps, values=values)
        for job, (name, kind) in series.items()
        for measure, (steps, values) in read_series(storage, job).items()
    ]


def read_series(storage: Storage, job: str) -> dict[Literal["loss", "validate_loss"], tuple[Any, Any]]:
    """Steps and values of a training's losses, thinned out where they are many.

    A training that was interrupted goes on from a checkpoint: what was measured after that is void, as its files say.
    """
    found: dict[Literal["loss", "validate_loss"], dict[int, float]] = {}
    for event in _events(storage, f"{TENSORBOARD}/{folder_of(job)}"):
        if event.HasField("session_log"):
            for name, values in found.items():
                found[name] = {step: value for step, value in values.items() if step < event.step}
        for value in event.summary.value:
            for name in _MEASURES:
                if value.tag == name and math.isfinite(value.simple_value):
                    found.setdefault(name, {})[event.step] = float(f"{value.simple_value:.6g}")
    return {name: _thinned(found[name]) for name in _MEASURES if found.get(name)}


def _thinned(values: Mapping[int, float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The first and the last and some between."""
    steps = sorted(values)
    last = len(steps) - 1
    places = range(len(steps)) if last < _POINTS else [place * last // (_POINTS - 1) for place in range(_POINTS)]
    shown = [steps[place] for place in places]
    return tuple(shown), tuple(values[step] for step in shown)


def _events(storage: Storage, prefix: str) -> Iterator[Event]:
    """Events in the order in which they were written: files are named by their time."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    for key in storage.keys(prefix):
        for record in _records(storage.read(key)):
            try:
                event = Event.FromString(record)
            except DecodeError:
                break  # a full disk cut this file short: curves are no reason to fail
            yield event


def _records(data: bytes) -> Iterator[bytes]:
    """Whole records; the last one of a process that was killed may be cut short."""
    at = 0
    while at + _LENGTH <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        start = at + _LENGTH + _CHECKSUM
        at = start + length + _CHECKSUM
        if at <= len(data):
            yield data[start : start + length]
