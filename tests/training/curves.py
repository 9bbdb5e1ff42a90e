"""Read what a training wrote for TensorBoard: the scalars of its event files, by their own format."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog


def scalars(folder: Path, name: str) -> dict[int, float]:
    """Values of one scalar by step; of a step that was written again, the last one."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(path.read_bytes()):
            for value in event.summary.value:
                if value.tag == name:
                    found[event.step] = value.simple_value
    return found


def restarts(folder: Path) -> list[int]:
    """Steps from which a curve was begun again: TensorBoard leaves out what an earlier file has of them."""
    found = [event for path in sorted(folder.glob("events.out.tfevents.*")) for event in _events(path.read_bytes())]
    return [event.step for event in found if event.session_log.status == SessionLog.START]


def _events(data: bytes) -> Iterator[Event]:
    """Records of a TFRecord file: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield Event.FromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
