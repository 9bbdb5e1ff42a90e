"""The shape of a target's samples: which parts they have, how one is written down, and how it is read back.

Two forms: `fields`, a label and a colon before each part, which the smallest models manage; and `json`, one object a
sample, for models that can write it. What a generator wrote is data: nothing in it is ever executed, and a sample that
has not all parts of the target's shape is refused with a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evoray.records import Row

Form = Literal["fields", "json"]

#: Characters of one sample; what is longer is no sample of a task, but a generator that ran away.
MAX_CHARS = 20_000
_LABELS = {"question": "Question", "options": "Options", "response": "Response", "answer": "Answer"}
_SEPARATOR = " | "  # between options
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What was no sample: a short fixed reason, what there was, and what a whole answer that was none had cost."""

    reason: str
    detail: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample in the target's shape."""

    question: str
    response: str
    options: tuple[str, ...] | None = None
    answer: str | None = None

    def columns(self) -> dict[str, Any]:
        """As a row of a pool."""
        options = None if self.options is None else list(self.options)
        return {"instruction": self.question, "output": self.response, "choices": options, "answer": self.answer}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The parts of a sample: a question and a response always; options, of which the response is one; or a short
    answer beside a longer response."""

    options: bool
    answer: bool

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Shape:
        """What most rows of a target have."""
        options = sum(bool(row.choices) for row in rows) * 2 > len(rows)
        answers = sum(row.answer is not None and row.answer != row.messages[-1].content for row in rows)
        return cls(options=options, answer=not options and answers * 2 > len(rows))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, in the order in which they are written."""
        if self.options:
            return ("question", "options", "response")
        return ("question", "response", "answer") if self.answer else ("question", "response")

    def serves(self, row: Row) -> bool:
        """Whether a row of the target can be shown as an example."""
        return row.asks and (bool(row.choices) or not self.options) and (row.answer is not None or not self.answer)

    def write(self, row: Row, form: Form) -> str:
        """A row of the target in one of the forms."""
        values = self._values(row)
        if form == "json":
            return json.dumps({part: values[part] for part in self.parts}, ensure_ascii=False)
        shown = values | {"options": _SEPARATOR.join(row.choices or ())}
        return "\n".join(f"{_LABELS[part]}: {shown[part]}" for part in self.parts)

    def reads_back(self, row: Row, form: Form) -> bool:
        """Whether a row that is written down is read as it was: one with a label in its own text is not."""
        found = self.read(self.write(row, form), form)
        if len(found) != 1 or isinstance(found[0], Refused):
            return False
        values, read = self._values(row), asdict(found[0])
        return all(_lines(values[part]) == _lines(read[part]) for part in self.parts)

    def _values(self, row: Row) -> dict[str, Any]:
        asked = "\n\n".join(message.content for message in row.messages[:-1])
        told = row.answer if self.options and row.answer is not None else row.messages[-1].content
        return {"question": asked, "options": list(row.choices or ()), "response": told, "answer": row.answer}

    def opening(self, form: Form) -> str:
        """How a text of samples begins."""
        return "{" if form == "json" else f"{_LABELS['question']}:"

    def read(self, text: str, form: Form) -> list[Sample | Refused]:
        """The samples of a generated text, in order, and what there was in place of some of them."""
        if len(text) > MAX_CHARS * 50:
            return [Refused(reason="too long", detail=f"an answer of {len(text)} characters")]
        found = list(_objects(text) if form == "json" else _paragraphs(text, self.parts))
        if not found:
            return [Refused(reason="no sample", detail=text[:500])]
        return [one if isinstance(one, Refused) else self._sample(one) for one in found]

    def _sample(self, values: Mapping[str, Any]) -> Sample | Refused:
        try:
            texts = {part: _text(values, part) for part in self.parts if part != "options"}
            options = _options(values) if self.options else None
            if sum(map(len, (*texts.values(), *(options or ())))) > MAX_CHARS:
                raise _UnfitError("too long")
            if options is not None and texts["response"] not in options:
                raise _UnfitError("response not among the options")
        except _UnfitError as error:
            return Refused(reason=str(error), detail=json.dumps(values, ensure_ascii=True, default=str)[:500])
        answer = texts["response"] if self.options else texts.get("answer")
        return Sample(question=texts["question"], response=texts["response"], options=options, answer=answer)


def _lines(value: str | Sequence[str]) -> list[str]:
    """What is compared of a part: a label stands in a line, whatever ends lines."""
    return value.splitlines() if isinstance(value, str) else list(value)


class _UnfitError(Exception):
    """The reason for which something is no sample."""


def _text(values: Mapping[str, Any], part: str) -> str:
    return _clean(values.get(part), part)


def _options(values: Mapping[str, Any]) -> tuple[str, ...]:
    value = values.get("options")
    listed = value.split(_SEPARATOR.strip()) if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise _UnfitError("options that are no list")
    options = tuple(_clean(option, "option") for option in listed)
    if len(options) < 2 or len(set(options)) < len(options):
        raise _UnfitError("fewer than two options, or equal ones")
    return options


def _clean(value: Any, part: str) -> str:
    if value is None or value == "":
        raise _UnfitError(f"no {part}")
    if not isinstance(value, str):
        raise _UnfitError(f"a {part} that is no text")
    if _CONTROL.search(value):
        raise _UnfitError("control characters")
    text = value.strip()
    if not text:
        raise _UnfitError(f"no {part}")
    return text


def _paragraphs(text: str, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Labelled parts; a new sample begins with each question. Labels of other parts are text like any other."""
    names = {_LABELS[part].lower(): part for part in parts}
    sample: dict[str, list[str]] = {}
    part: str | None = None
    for line in text.splitlines():
        label, colon, rest = line.partition(":")
        named = names.get(label.strip().strip("*#- ").lower()) if colon else None
        if named == "question" and sample:
            yield _joined(sample)
            sample = {}
        if named is not None and named not in sample:
            # Of a label in bold, `**Question:** one`, the end is beyond the colon.
            part, sample[named] = named, [rest.strip().lstrip("*") if "*" in label else rest]
        elif part is not None:
            sample[part].append(line)
    if sample:
        yield _joined(sample)


def _joined(sample: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {part: "\n".join(lines).strip() for part, lines in sample.items()}


def _objects(text: str) -> Iterator[dict[str, Any] | Refused]:
    """Objects anywhere in a text, alone or in lists; what follows the last whole one may be the half of another."""
    decoder, place = json.JSONDecoder(), 0
    while (place := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):  # a number of thousands of digits is a plain ValueError
            yield Refused(reason="broken JSON", detail=text[place : place + 500])
            following = re.compile(r"\}\s*,?\s*(?=\{)").search(text, place)
            if following is None:
                return
            place = following.end()
        else:
            yield value
