"""The contamination guard: no candidate may repeat what models are tested on.

A candidate is refused where it has 13 words in a row with a row of the target: the rule of GPT-3's authors (arXiv
2005.14165, appendix C) and of lm-evaluation-harness. Words are letters and digits in compatibility form and lower case;
in scripts that put no space between words each letter counts as one. Rows of the target that are shorter are compared
whole: a candidate in which all words of one follow each other is refused. A row of fewer than 5 words says too little
to be refused for. What three rows or more of the target have in common is the wording of the task, which candidates of
the task share, and is not compared.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

NGRAM = 13
SHORTEST = 5
COMMON = 3
#: Thai, Lao, Burmese, Khmer, kana, and Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


class Guard:
    """What is protected: sequences of words, by their length."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        """`texts`: a name (its split, say) and the text of each row of the target."""
        named: dict[tuple[int, str], str] = {}
        rows: Counter[tuple[int, str]] = Counter()
        for name, text in texts:
            words = _words(text)
            length = min(NGRAM, len(words))
            if length >= SHORTEST:
                found = {(length, sequence) for sequence in _sequences(words, length)}
                rows.update(found)
                named |= {key: named.get(key, name) for key in found}
        self._names: dict[int, dict[str, str]] = {}
        for (length, sequence), name in named.items():
            if rows[length, sequence] < COMMON:
                self._names.setdefault(length, {})[sequence] = name

    def repeats(self, text: str) -> str | None:
        """The name of a protected text that this one has a sequence of, and the sequence; None where there is none."""
        words = _words(text)
        for length, names in sorted(self._names.items(), reverse=True):
            for sequence in _sequences(words, length):
                if sequence in names:
                    return f"{names[sequence]}: {sequence}"
        return None


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _sequences(words: list[str], length: int) -> Iterator[str]:
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))
