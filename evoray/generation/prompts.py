"""What a generator is asked: examples of the task, and new ones in the same form.

Request number i of a round is a function of (seed, round, i) and the align rows alone: it is the same on every worker
and after every interruption. No row of another split is ever in a prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evoray.errors import ConfigError, TargetError
from evoray.generation.shape import Form, Shape
from evoray.records import Message, Row

#: `examples`: texts in the form; `count`: how many new ones; `form`: fields or json.
TEMPLATE = """\
Here {{ "is an example" if examples | length == 1 else "are examples" }} of a task:

{{ examples | join("\\n\\n") }}

Write {{ "another one" if count == 1 else count ~ " others" }} about \
{{ "something else" if count == 1 else "other things" }}, \
{% if form == "json" %}as JSON with the same keys{{ "" if count == 1 else ", one object a line" }}\
{% else %}in exactly the same form{% endif %}, and nothing beside {{ "it" if count == 1 else "them" }}."""


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(template)


def turns(text: str, system: str | None) -> list[Message]:
    """A request as a conversation."""
    asked = Message("user", text)
    return [asked] if system is None else [Message("system", system), asked]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request."""

    number: int
    text: str
    examples: tuple[str, ...]  # ids of the align rows that it shows
    seed: int  # of a generator that can be seeded


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a generator wrote, and what it cost."""

    text: str
    cut_off: bool  # by the limit of tokens
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """What it cost."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How requests are made of the align rows."""

    template: str = TEMPLATE
    form: Form = "fields"
    examples: int = 3
    count: int = 1  # samples asked for in one request
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError for a template that cannot be rendered."""
        self._render(["an example"])

    @property
    def fingerprint(self) -> str:
        """Of the template: 12 hex digits, which samples carry."""
        return hashlib.sha256(self.template.encode()).hexdigest()[:12]

    def prompts(self, rows: Sequence[Row], shape: Shape, numbers: Iterable[int]) -> list[Prompt]:
        """Requests of a round, by number. Raises TargetError where no row can be shown."""
        serving = sorted((row for row in rows if shape.serves(row)), key=lambda row: row.id)
        usable = [row for row in serving if shape.reads_back(row, self.form)]
        if not usable:
            lacking = f"a form {self.form} that tells its parts apart" if serving else f"all parts of {shape.parts}"
            raise TargetError(
                f"{len(rows)} align rows, none with a question and {lacking}",
                "rows that a generator can be shown",
                "set generation.form: json"
                if serving
                else "add a question to each row of the target, or generate none",
            )
        return [self._prompt(usable, shape, number) for number in numbers]

    def _prompt(self, usable: Sequence[Row], shape: Shape, number: int) -> Prompt:
        generator = np.random.default_rng([self.seed, number])
        drawn = generator.choice(len(usable), size=min(self.examples, len(usable)), replace=False)
        shown = [usable[place] for place in drawn.tolist()]
        text = self._render([shape.write(row, self.form) for row in shown])
        ids = tuple(row.id for row in shown)
        return Prompt(number=number, text=text, examples=ids, seed=int(generator.integers(2**31)))

    def _render(self, examples: Sequence[str]) -> str:
        try:
            return _compiled(self.template).render(examples=list(examples), count=self.count, form=self.form)
        except TemplateError as error:
            raise ConfigError(
                f"generation.prompt: {type(error).__name__}: {error}",
                "a Jinja template with the variables examples, count and form",
                "correct the template, or leave generation.prompt out",
            ) from error
