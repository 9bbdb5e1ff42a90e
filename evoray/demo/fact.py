"""The neutral record in which every kind of demo knowledge is written down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One true statement that can be asked for.

    `subject` names the thing asked about; two facts of one kind never share it. `entity` is what the
    fact is about in the end: facts of different kinds that give one another away share it (the
    capital of a country, the country of a capital). `questions` are wordings of the same question.
    `wrong` are false answers of the same type as `answer`, at least three, none of them repeated.
    """

    kind: str
    subject: str
    entity: str
    questions: tuple[str, ...]
    answer: str
    wrong: tuple[str, ...]


def ask(
    kind: str, wordings: tuple[str, ...], subject: str, answer: str, wrong: Iterable[str], *, entity: str | None = None
) -> Fact:
    """Build a fact from wordings with one `{}` each, where the subject goes; false answers are made unique."""
    return Fact(
        kind=kind,
        subject=subject,
        entity=subject if entity is None else entity,
        questions=tuple(wording.format(subject) for wording in wordings),
        answer=answer,
        wrong=tuple(dict.fromkeys(choice for choice in wrong if choice != answer)),
    )
