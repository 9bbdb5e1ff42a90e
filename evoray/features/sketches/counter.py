"""Random words and signs from a counter: the same on every machine, in every process and for every device.

SplitMix64's finaliser (Steele et al. 2014) of a key that BLAKE2 makes of (seed, name). Nothing depends on Python's
own string hash, which changes from process to process: features of two runs would then be unrelated, silently.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stable_key(seed: int, name: str) -> int:
    """A 64-bit key of (seed, name), the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def counter_hash(key: int, count: int, start: int = 0) -> npt.NDArray[np.uint64]:
    """Uniform 64-bit words number `start` to `start + count` of a key."""
    with np.errstate(over="ignore"):
        words = np.uint64(key) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * _GOLDEN
        words = (words ^ (words >> np.uint64(30))) * _MIX_1
        words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def counter_signs(key: int, rows: int, columns: int, start: int = 0) -> npt.NDArray[np.int8]:
    """Random signs [rows, columns], -1 or +1: rows number `start` and on of an endless matrix of `columns` columns.

    A row takes whole words, one sign a bit, so that any block of rows can be made alone.
    """
    words = -(-columns // 64)
    bits = counter_hash(key, rows * words, start * words).astype("<u8", copy=False).view(np.uint8).reshape(rows, -1)
    signs = np.unpackbits(bits, axis=1, count=columns, bitorder="little").view(np.int8)
    signs *= -2
    signs += 1
    return signs
