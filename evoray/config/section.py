"""What every section of a config is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["auto", "float32", "bfloat16"]


class Section(BaseModel):
    """A part of a config: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def names_own(text: str) -> bool:
    """Whether a text is `package.module:name`, something of the user's own."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), name))
