"""What every section of a config is, and which of them a type names."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict

Precision = Literal["auto", "float32", "bfloat16"]


class Section(BaseModel):
    """A part of a config: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


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
