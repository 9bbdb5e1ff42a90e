from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoray.pool.near_duplicates import SHINGLE, THRESHOLD, find_near_duplicates, plain, signatures


def jaccard(one: str, other: str) -> float:
    first, second = (
        {text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))} for text in (one, other)
    )
    return len(first & second) / len(first | second)


def oracle(texts: list[str], threshold: float) -> dict[int, int]:
    """All pairs, in order."""
    kept: list[int] = []
    dropped: dict[int, int] = {}
    for place, text in enumerate(texts):
        first = next((one for one in kept if jaccard(text, texts[one]) >= threshold), None)
        if first is None:
            kept.append(place)
        else:
            dropped[place] = first
    return dropped


def variants(seed: int, count: int) -> list[str]:
    """Sentences and copies of them with some words changed, in random order."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 8))) for _ in range(200)]
    texts = []
    for _ in range(count):
        sentence = rng.choices(words, k=18)
        texts.append(" ".join(sentence))
        for _ in range(rng.randint(0, 3)):
            changed = list(sentence)
            for place in rng.sample(range(18), rng.randint(0, 4)):
                changed[place] = rng.choice(words)
            texts.append(" ".join(changed))
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("threshold", [THRESHOLD, 0.5, 0.3, 0.15])
@pytest.mark.parametrize("seed", range(2))
def test_nearly_all_near_duplicates_are_found_and_nothing_else_is_dropped(seed: int, threshold: float) -> None:
    texts = variants(seed, 150)
    found, expected = find_near_duplicates(texts, threshold), oracle(texts, threshold)
    assert len(expected) > 50
    assert all(jaccard(texts[place], texts[first]) >= threshold for place, first in found.items())
    assert len(found.keys() & expected.keys()) >= 0.99 * len(expected)


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text("ab ", max_size=12), max_size=12))
def test_short_and_equal_texts_are_judged_as_by_all_pairs(texts: list[str]) -> None:
    found = find_near_duplicates(texts)
    assert all(texts[first] not in (texts[place] for place in range(first)) for first in found.values())
    for place, first in found.items():
        assert first < place and first not in found and jaccard(texts[place], texts[first]) >= THRESHOLD
    copies = {place for place, text in enumerate(texts) if text in texts[:place]}
    assert copies <= found.keys()


def test_case_width_and_white_space_make_no_difference() -> None:
    texts = [plain(text) for text in ("What is  the capital\nof France?", "ＷＨＡＴ is the Capital of FRANCE?")]
    assert find_near_duplicates(texts) == {1: 0}


def test_a_wording_common_to_all_does_not_hide_a_duplicate() -> None:
    frame = "of the following statements exactly one is true about the chemical element with the symbol "
    rng = random.Random(0)
    texts = [frame + "".join(rng.choices("abcdefghijklmnop", k=22)) for _ in range(400)]
    assert 0.55 < jaccard(texts[0], texts[1]) < THRESHOLD
    found = find_near_duplicates([*texts, texts[123]])
    assert found == {400: 123}


def test_signatures_are_the_same_in_every_process() -> None:
    # Of rensa 0.5: another value means that signatures in old runs cannot be compared with new ones.
    assert signatures(["the same text"])[0, :3].tolist() == signatures(iter(["the same text"]))[0, :3].tolist()
    assert signatures([]).shape == (0, 64) and signatures([""]).dtype == np.uint32
