"""What every summary can do: become plain JSON, and be read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from evoray.errors import StorageError


class Document:
    """Base of the dataclasses that are written as JSON. `source`: what makes one, in words."""

    source: ClassVar[str]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises StorageError, naming the keys, where it is anything else."""
        try:
            return TypeAdapter(cls).validate_python(dict(document))
        except ValidationError as error:
            keys = ", ".join(
                f"{'.'.join(str(part) for part in problem['loc'])} ({problem['msg']})" for problem in error.errors()
            )
            raise StorageError(
                f"a {cls.source} summary with problems at {keys}",
                "a summary as this version writes it",
                f"render the report with the version that made the {cls.source}, or run the command again",
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Plain dict of strings, numbers, lists and dicts."""
        document: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return document
