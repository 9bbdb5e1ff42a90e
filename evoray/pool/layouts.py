"""The four layouts of a sample, and how one row of each becomes a conversation.

Everything here works on the cells of one row (plain Python values); `rows.py` applies it to tables.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evoray.errors import PoolError
from evoray.records import MESSAGES_COLUMN, Message

#: Columns that a layout needs, in order of preference. `input` is an optional companion of `instruction`.
LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("messages",),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("text",),
)
LAYOUT_COLUMNS = ("messages", "instruction", "input", "output", "prompt", "completion", "text")
#: Columns that evoray understands where they are present; every other one is only carried through.
OPTIONAL_COLUMNS = ("id", "source", "subtask", "choices", "answer", "quality", "weight")

_ACCEPTED = "messages; instruction [+ input] + output; prompt + completion; or text"
_ROLES = ("system", "user", "assistant")
#: Other names under which pools carry the same thing, for the advice in an error.
_ALIASES = {
    "response": "output",
    "answer": "output",
    "target": "output",
    "question": "instruction",
    "query": "instruction",
    "context": "input",
    "conversation": "messages",
    "conversations": "messages",
    "chosen": "completion",
    "content": "text",
}


class UnusableRowError(Exception):
    """One row cannot be used. Never leaves this package: it becomes a quarantine record."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Extras:
    """The optional cells of a row after validation; None where the row has none."""

    id: str | None
    source: str | None
    subtask: str | None
    choices: list[str] | None
    answer: str | None
    quality: float | None
    weight: float | None


def layout_of(names: Iterable[str], file: str) -> tuple[str, ...]:
    """The first layout whose columns are all among `names`. Raises PoolError with the nearest one otherwise."""
    present = [name for name in names if not name.startswith(("evoray_", "__"))]
    for layout in LAYOUTS:
        if set(layout) <= set(present):
            return layout
    renamed = {name: _meant_by(name) for name in present}
    nearest = max(LAYOUTS, key=lambda layout: sum(name in present or name in renamed.values() for name in layout))
    missing = [name for name in nearest if name not in present]
    hints = [f"{name} (perhaps from {old})" for name in missing for old, new in renamed.items() if new == name]
    raise PoolError(
        f"{file}: columns {', '.join(present) or 'none'}",
        f"{_ACCEPTED}; the nearest is {' + '.join(nearest)}",
        f"rename or add {', '.join(hints or missing)}",
    )


def row_layout(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The layout that the filled cells of one row fit, for files whose rows need not be alike.

    Judged by the row alone, so that it does not matter which rows share its unit. `text` beside a column of
    another layout is no sample of its own (often it is the rendered prompt). Raises UnusableRowError.
    """
    filled = {name for name in LAYOUT_COLUMNS if row.get(name) is not None}
    for layout in LAYOUTS[:-1]:
        if filled.issuperset(layout):
            return layout
    if "text" in filled and not filled & {"messages", "instruction", "output", "completion"}:
        return ("text",)
    found = ", ".join(sorted(filled)) or "none of them"
    raise UnusableRowError("not text", f"the filled cells ({found}) make up no accepted layout: {_ACCEPTED}")


def messages_of(row: Mapping[str, Any], layout: tuple[str, ...]) -> list[Message]:
    """The conversation of one row, outer whitespace stripped. Raises UnusableRowError.

    `text` is a single assistant turn. A system turn without content is left out of `messages`.
    """
    if layout in (("messages",), (MESSAGES_COLUMN,)):
        return _conversation(row[layout[0]])
    if layout == ("text",):
        return [Message("assistant", _filled(_text(row, "text"), "empty response", "text"))]
    prompt = _filled(_text(row, layout[0]), "empty prompt", layout[0])
    if layout[0] == "instruction" and row.get("input") is not None:
        context = _text(row, "input")
        prompt = f"{prompt}\n\n{context}" if context else prompt
    return [Message("user", prompt), Message("assistant", _filled(_text(row, layout[1]), "empty response", layout[1]))]


def extras_of(row: Mapping[str, Any]) -> Extras:
    """The optional cells of one row, each in its one type. Raises UnusableRowError."""
    choices = _choices(row.get("choices"))
    answer = scalar_text(row.get("answer"), "answer")
    if choices is not None and answer is None:
        raise UnusableRowError("choices without answer", f"{len(choices)} choices and no answer")
    if choices is not None and answer not in choices:
        raise UnusableRowError("answer not among choices", f"answer {answer!r}, choices {choices!r}")
    quality, weight = _number(row, "quality"), _number(row, "weight")
    if weight is not None and weight <= 0:
        raise UnusableRowError("bad weight", f"weight {weight}, not above 0")
    return Extras(
        id=scalar_text(row.get("id"), "id") or None,
        source=_label(row.get("source")),
        subtask=_label(row.get("subtask")),
        choices=choices,
        answer=answer,
        quality=quality,
        weight=weight,
    )


def from_csv(row: dict[str, Any]) -> dict[str, Any]:
    """CSV knows text only: empty optional cells become null, numbers and lists are parsed. Raises UnusableRowError."""
    typed = dict(row)
    for name in (*OPTIONAL_COLUMNS, "input"):
        if not (typed.get(name) or "").strip():
            typed[name] = None
    for name in ("quality", "weight"):
        if typed[name] is not None:
            try:
                typed[name] = float(typed[name])
            except ValueError as error:
                raise UnusableRowError(f"bad {name}", f"{name} {typed[name]!r} is not a number") from error
    for name, reason in (("choices", "not text"), ("messages", "broken messages")):
        if typed.get(name) is not None:
            try:
                typed[name] = json.loads(typed[name])
            except (ValueError, RecursionError) as error:
                raise UnusableRowError(reason, f"column {name} is not a JSON list: {typed[name][:60]!r}") from error
    return typed


def scalar_text(value: Any, name: str) -> str | None:
    """An id or answer as stripped text. A whole number reads the same whether it was stored as 3 or 3.0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return _valid(value.strip(), name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    raise UnusableRowError("not text", f"column {name} is a {type(value).__name__}")


def _meant_by(name: str) -> str:
    known = _ALIASES.get(name.lower())
    close = difflib.get_close_matches(name.lower(), LAYOUT_COLUMNS, n=1)
    return known or (close[0] if close else "")


def _conversation(turns: Any) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise UnusableRowError("broken messages", "not a list of turns" if turns else "no turns")
    messages = []
    for index, turn in enumerate(turns):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in _ROLES:
            raise UnusableRowError("broken messages", f"turn {index} has role {role!r}, not one of {', '.join(_ROLES)}")
        if not isinstance(content, str):
            raise UnusableRowError(
                "broken messages", f"content of turn {index} is a {type(content).__name__}, not text"
            )
        text = _valid(content.strip(), f"messages[{index}]")
        if not text and role != "system":
            raise UnusableRowError("empty prompt" if role == "user" else "empty response", f"turn {index} is empty")
        if text:
            messages.append(Message(role, text))
    if not messages or messages[-1].role != "assistant":
        raise UnusableRowError("broken messages", "the last turn is not the assistant's")
    return messages


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        raise UnusableRowError("not text", f"column {name} is {kind}")
    return _valid(value.strip(), name)


def _valid(text: str, name: str) -> str:
    if "\x00" in text:
        raise UnusableRowError("not valid text", f"column {name} holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnusableRowError("not valid text", f"column {name} holds a lone surrogate") from error
    return text


def _filled(text: str, reason: str, name: str) -> str:
    if not text:
        raise UnusableRowError(reason, f"column {name} is empty")
    return text


def _choices(value: Any) -> list[str] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise UnusableRowError("not text", "column choices is not a list of texts")
    return [_valid(choice.strip(), "choices") for choice in value]


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableRowError(f"bad {name}", f"{name} is a {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise UnusableRowError(f"bad {name}", f"{name} is too large") from error
    if not math.isfinite(number):
        raise UnusableRowError(f"bad {name}", f"{name} is {number}")
    return number


def _label(value: Any) -> str | None:
    if value is None:
        return None
    return _valid(value if isinstance(value, str) else json.dumps(value, default=str), "source or subtask")
