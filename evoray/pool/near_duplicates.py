"""Near-duplicates: rows whose texts are nearly the same, however they are ordered or spread over units.

Texts are compared by the Jaccard similarity of their character 5-grams, without regard to case, width of characters and
white space. MinHash signatures (64 permutations, by the library `rensa`) are cut into bands; rows that share a band are
compared exactly. A pair of similarity .8 is found with probability .9998 in 16 bands of 4. Below .7 there are more and
narrower bands, so that a pair at the threshold is found with probability .987 at least, whatever the threshold. A pair
below it is never a duplicate, for the comparison is exact.

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
PERMUTATIONS = 64
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
    bands = _bands(threshold)
    suspects = _suspects(signatures(texts, seed), bands)
    kept: list[dict[int, list[int]]] = [{} for _ in range(bands)]  # kept places by band
    dropped: dict[int, int] = {}
    for place, own in suspects:
        shingles = _shingles(texts[place])
        shared = Counter(one for places, band in zip(kept, own, strict=True) for one in places.get(band, ()))
        # Most bands in common first: where a wording is common to thousands, what is nearest comes among the first.
        candidates = sorted(shared, key=lambda one: (-shared[one], one))[:_COMPARED]
        first = next(
            (one for one in sorted(candidates) if _jaccard(shingles, _shingles(texts[one])) >= threshold), None
        )
        if first is not None and place >= held:
            dropped[place] = first
            continue
        for places, band in zip(kept, own, strict=True):
            places.setdefault(band, []).append(place)
    return dropped


def _bands(threshold: float) -> int:
    """Bands in which pairs of such a similarity are found: the fewer permutations a band has, the more of them are."""
    per_band = 4 if threshold >= 0.7 else 2 if threshold >= 0.4 else 1
    return PERMUTATIONS // per_band


def _suspects(signature_NP: Signatures, bands: int) -> Iterator[tuple[int, list[int]]]:
    """Places that share a band with another, ascending, with their bands."""
    rows = signature_NP.shape[1] // bands
    band_NB = np.empty((len(signature_NP), bands), np.uint64)
    shared_N = np.zeros(len(signature_NP), bool)
    for band in range(bands):
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
