"""Near-duplicates: rows whose texts are nearly the same, however they are ordered or spread over units.

Texts are compared by the Jaccard similarity of their character 5-grams, without regard to case, width of characters and
white space. MinHash signatures (64 permutations, by the library `rensa`) are cut into bands; rows that share a band are
compared exactly. With 16 bands of 4 a pair of similarity .8 is found with probability .9998, one of .6 with .89; a pair
below the threshold is never a duplicate, for the comparison is exact.

Rows are judged in order: a row is dropped for the first kept row that it is a near-duplicate of. A row that only
resembles a dropped one stays.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

#: Similarity from which two texts are the same sample.
THRESHOLD = 0.8
SHINGLE = 5
PERMUTATIONS, BANDS = 64, 16
_CHUNK = 4096  # texts whose shingles are held at a time
_COMPARED = 64  # kept rows that one row is compared with, at most

Signatures = npt.NDArray[np.uint32]


def plain(text: str) -> str:
    """What is compared: compatibility form, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def signatures(texts: Iterable[str], seed: int = 0) -> Signatures:
    """MinHash signatures [N, PERMUTATIONS] of plain texts."""
    from rensa import RMinHash

    parts = [
        np.array(RMinHash.digests_from_token_sets(chunk, PERMUTATIONS, seed), dtype=np.uint32)
        for chunk in _chunks(texts)
    ]
    return np.concatenate([np.empty((0, PERMUTATIONS), np.uint32), *parts])


def find_near_duplicates(
    texts: Sequence[str], threshold: float = THRESHOLD, *, held: int = 0, seed: int = 0
) -> dict[int, int]:
    """Places of the plain texts to drop, each with that of the kept text that it nearly equals.

    held: so many texts at the beginning stay in any case.
    """
    suspects = _suspects(signatures(texts, seed))
    kept: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]  # kept places by band
    dropped: dict[int, int] = {}
    for place, bands in suspects:
        shingles = _shingles(texts[place])
        shared = Counter(one for places, band in zip(kept, bands, strict=True) for one in places.get(band, ()))
        # Most bands in common first: where a wording is common to thousands, what is nearest comes among the first.
        candidates = sorted(shared, key=lambda one: (-shared[one], one))[:_COMPARED]
        first = next(
            (one for one in sorted(candidates) if _jaccard(shingles, _shingles(texts[one])) >= threshold), None
        )
        if first is not None and place >= held:
            dropped[place] = first
            continue
        for places, band in zip(kept, bands, strict=True):
            places.setdefault(band, []).append(place)
    return dropped


def _suspects(signature_NP: Signatures) -> Iterator[tuple[int, list[int]]]:
    """Places that share a band with another, ascending, with their bands."""
    rows = signature_NP.shape[1] // BANDS
    band_NB = np.empty((len(signature_NP), BANDS), np.uint64)
    shared_N = np.zeros(len(signature_NP), bool)
    for band in range(BANDS):
        hashed_N = np.zeros(len(signature_NP), np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            # Multiply and add modulo 2^64; a collision costs one exact comparison.
            hashed_N = hashed_N * np.uint64(0x9E3779B97F4A7C15) + signature_NP[:, column] + np.uint64(1)
        band_NB[:, band] = hashed_N
        _, inverse_N, count_U = np.unique(hashed_N, return_inverse=True, return_counts=True)
        shared_N |= count_U[inverse_N] > 1
    for place in np.flatnonzero(shared_N).tolist():
        yield place, band_NB[place].tolist()


def _chunks(texts: Iterable[str]) -> Iterator[list[list[str]]]:
    chunk: list[list[str]] = []
    for text in texts:
        chunk.append(list(_shingles(text)))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _shingles(text: str) -> set[str]:
    """The 5-grams of a text; of a shorter one the text itself."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
