"""What every section of a config is, and which of them a type names."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "float32", "bfloat16"]
#: Tokens of one pass of a model.
PassTokens = Annotated[int, Field(ge=8)] | Literal["auto"]


class Section(BaseModel):
    """A part of a config: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Computed(Section):
    """A section of work that a model's passes do: what is `auto` in it depends on where they are done."""

    #: The key that bounds the tokens of a pass, and what `auto` means there on a CPU and on a GPU. A pass on a CPU is
    #: best as large as its caches; on a GPU one that is too large is cut in two, one that is too small leaves it idle.
    tokens_key: ClassVar[str] = "batch_tokens"
    auto_tokens: ClassVar[tuple[int, int]]

    @property
    def pass_tokens(self) -> int:
        """Tokens of one pass; where nothing is decided yet, those of a CPU."""
        value = getattr(self, self.tokens_key)
        return self.auto_tokens[0] if value == "auto" else int(value)

    def settled(self, precision: Literal["float32", "bfloat16"], *, on_gpu: bool) -> Self:
        """With what is `auto` decided."""
        meant = {"precision": precision, self.tokens_key: self.auto_tokens[on_gpu]}
        return self.model_copy(update={key: value for key, value in meant.items() if getattr(self, key) == "auto"})


def sections_in(annotation: Any, *, collected: bool = True) -> Iterator[type[BaseModel]]:
    """The sections that a key's type names. collected: also those that it has a list or mapping of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif collected or get_origin(annotation) not in (dict, tuple, list):
        for part in get_args(annotation):
            yield from sections_in(part, collected=collected)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, or may leave out; None for a value."""
    return next(sections_in(annotation, collected=False), None)


def may_be_null(annotation: Any) -> bool:
    """Whether a key may be left empty."""
    return NoneType in get_args(annotation)


def names_own(text: str) -> bool:
    """Whether a text is `package.module:name`, something of the user's own."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), name))
