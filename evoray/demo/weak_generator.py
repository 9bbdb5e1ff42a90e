"""What a weak data generator writes: some good rows among wrong, repeated, stray and broken ones.

Every function makes one row of one label from facts and a random generator that is passed in. The
label never enters the row.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from evoray.demo.fact import Fact


class Label(StrEnum):
    """What is known of a row of the demo pool, kept aside from it."""

    GOOD = "good"  # on the target task and right
    WRONG = "wrong"  # in the form of the target task, with a false answer of the right type
    DUPLICATE = "duplicate"  # a good row once more, reworded a little or copied
    OFF_TASK = "off_task"  # right, about something else; or chatter
    BROKEN = "broken"  # cut off, junk, in the wrong format, or without an answer


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A pool row before it has an id. `output` is None where the generator left the field out."""

    source: str  # the kind of the fact, or "chatter"
    instruction: str
    output: str | None
    label: Label
    input: str | None = None


_CHATTER = (
    ("Hello, how are you today?", None, "I am well, thank you. How can I help you?"),
    ("Tell me a joke.", None, "Why did the bicycle fall over? It was two-tired."),
    ("I cannot sleep.", None, "A dark room and a book often help."),
    ("Say something nice.", None, "You are asking good questions."),
    ("What should I cook tonight?", None, "How about a soup with bread?"),
    ("Rewrite this politely.", "Send me the file now.", "Could you please send me the file?"),
    ("Shorten this sentence.", "It is raining very hard outside at the moment.", "It is pouring."),
    ("Thank you for your help.", None, "You are welcome!"),
    ("Do you like music?", None, "I do not hear it, but I like to talk about it."),
    ("I am bored.", None, "You could take a walk or call a friend."),
    ("Give this text a title.", "We baked bread, and the kitchen smelled of it all day.", "A Day of Bread"),
    ("Good night.", None, "Sleep well."),
)
_CHATTER_OPENINGS = ("", "Hi there. ", "Hey! ", "Well, ", "One more thing. ", "Okay. ", "By the way: ", "So, ")


def good(fact: Fact, wording: int) -> Draft:
    """A right row; `wording` is an index into the questions of the fact."""
    return Draft(source=fact.kind, instruction=fact.questions[wording], output=fact.answer, label=Label.GOOD)


def wrong(fact: Fact, rng: random.Random) -> Draft:
    """The question of a fact with one of its false answers."""
    return Draft(
        source=fact.kind, instruction=rng.choice(fact.questions), output=rng.choice(fact.wrong), label=Label.WRONG
    )


def duplicate(row: Draft, rng: random.Random) -> Draft:
    """A good row with its meaning kept and its text touched."""
    question, answer = row.instruction, str(row.output)
    question = rng.choice(
        (
            f"Please answer: {question}",
            f"Question: {question}",
            f"{question} ",
            f"{question} Thanks.",
            question.rstrip("?."),
            question.lower(),
            question.replace(" ", "  ", 1),
        )
    )
    if rng.random() < 0.3:
        answer = f"{answer}."
    return replace(row, instruction=question, output=answer, label=Label.DUPLICATE)


def exact_copy(row: Draft) -> Draft:
    """A good row again, letter by letter."""
    return replace(row, label=Label.DUPLICATE)


def off_task(fact: Fact, rng: random.Random) -> Draft:
    """A right row of another task."""
    return Draft(source=fact.kind, instruction=rng.choice(fact.questions), output=fact.answer, label=Label.OFF_TASK)


def chatter(rng: random.Random) -> Draft:
    """Small talk that no target asks for."""
    question, text, answer = rng.choice(_CHATTER)
    opening = rng.choice(_CHATTER_OPENINGS)
    return Draft(source="chatter", instruction=opening + question, input=text, output=answer, label=Label.OFF_TASK)


def broken(fact: Fact, rng: random.Random) -> Draft:
    """A row that was damaged on the way but can still be read as a row."""
    return rng.choice(_DAMAGES)(fact, rng)


def unusable(fact: Fact, rng: random.Random) -> Draft:
    """A row without an answer, which a reader of the pool has to set aside."""
    empty = rng.choice(("", "   ", None))
    return Draft(source=fact.kind, instruction=rng.choice(fact.questions), output=empty, label=Label.BROKEN)


def _cut_off(fact: Fact, rng: random.Random) -> Draft:
    question = rng.choice(fact.questions)
    kept = question[: rng.randint(4, max(5, len(question) // 2))]
    return Draft(source=fact.kind, instruction=kept, output=fact.answer[:1], label=Label.BROKEN)


def _repeated(fact: Fact, rng: random.Random) -> Draft:
    junk = " ".join([fact.answer.split()[0]] * rng.randint(4, 7))
    return Draft(source=fact.kind, instruction=rng.choice(fact.questions), output=junk, label=Label.BROKEN)


def _wrong_format(fact: Fact, rng: random.Random) -> Draft:
    output = rng.choice(('{"answer": null}', "(B)", "As an AI model, I", "<answer></answer>", "Option 3"))
    return Draft(source=fact.kind, instruction=rng.choice(fact.questions), output=output, label=Label.BROKEN)


def _mojibake(fact: Fact, rng: random.Random) -> Draft:
    # UTF-8 read as Windows-1252: the quotes and dashes of a typeset page turn into such runs.
    quoted = f"\u201c{fact.answer}\u2019".encode().decode("cp1252", errors="replace")
    question = rng.choice(fact.questions).replace(" ", "\u00c2\u00a0")
    return Draft(source=fact.kind, instruction=question, output=quoted, label=Label.BROKEN)


_DAMAGES: tuple[Callable[[Fact, random.Random], Draft], ...] = (_cut_off, _repeated, _wrong_format, _mojibake)
