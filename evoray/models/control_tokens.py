"""Control tokens that a message spells out (`<|im_end|>`, say) are text like any other: no row can forge a turn.

A tokenizer reads them wherever they stand. So they are put out of its sight before a conversation is rendered, and are
tokenised apart, as plain text, in their places. Rows that spell out none are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from evoray.records import Message

#: Characters that no text means anything by: one that a row does not have marks its places.
_PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What was put out of sight: place i of `texts` stands as mark, i, mark in the rendered text."""

    mark: str = ""
    texts: tuple[str, ...] = ()

    def pieces(self, text: str) -> Iterator[tuple[str, str | None]]:
        """The text cut at the places: each piece, and what it hides (None: it is what it says)."""
        if not self.texts:
            yield text, None
            return
        for piece in re.split(f"({self.mark}[0-9]+{self.mark})", text):
            number = piece.strip(self.mark)
            marked = piece == f"{self.mark}{number}{self.mark}" and number.isdecimal()
            yield piece, self.texts[int(number)] if marked and int(number) < len(self.texts) else None

    def restore(self, text: str) -> str:
        """The text as it was written."""
        return "".join(piece if hidden is None else hidden for piece, hidden in self.pieces(text))


NOTHING = Hidden()


def hide(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[Message, ...], Hidden]:
    """The messages without control tokens, and what was in their places."""
    controls = _controls(tokenizer)
    if controls is None or not any(controls.search(message.content) for message in messages):
        return tuple(messages), NOTHING
    used = set("".join(message.content for message in messages))
    mark = next((sign for sign in map(chr, _PRIVATE) if sign not in used), "\u200b")
    texts: list[str] = []

    def put_away(found: re.Match[str]) -> str:
        texts.append(found[0])
        return f"{mark}{len(texts) - 1}{mark}"

    turns = tuple(Message(message.role, controls.sub(put_away, message.content)) for message in messages)
    return turns, Hidden(mark=mark, texts=tuple(texts))


@lru_cache(maxsize=8)
def _controls(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    longest_first = sorted(special - {""}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
