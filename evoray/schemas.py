"""JSON Schemas of configs, for editors: keys are completed and explained, and wrong ones underlined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from evoray.comparison_config import ComparisonConfig
from evoray.config import RunConfig
from evoray.config.section import sections_in
from evoray.config_comments import field_comments
from evoray.errors import ConfigError

ROOTS: Mapping[str, type[BaseModel]] = {"run": RunConfig, "comparison": ComparisonConfig}
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def config_schema(kind: str) -> dict[str, Any]:
    """The schema of a config: `run`, or `comparison`. What a key means is what its line of source says.

    Raises ConfigError for another name.
    """
    if kind not in ROOTS:
        raise ConfigError(f"a schema of {kind!r}", f"one of {', '.join(ROOTS)}", "correct the name")
    root = ROOTS[kind]
    schema = root.model_json_schema(by_alias=True)
    sections = {section.__name__: section for section in _sections(root)}
    _explain(schema, root)
    for name, definition in schema.get("$defs", {}).items():
        _explain(definition, sections[name])
    if root is ComparisonConfig:  # a selector by its name alone is an entry too
        entries = schema["properties"]["selectors"]
        entries["items"] = {"anyOf": [{"type": "string"}, entries["items"]]}
    return {"$schema": _DRAFT, **schema}


def _sections(kind: type[BaseModel], seen: frozenset[type[BaseModel]] = frozenset()) -> Iterator[type[BaseModel]]:
    """A section and all that it is made of."""
    yield kind
    for field in kind.model_fields.values():
        for inner in sections_in(field.annotation):
            if inner not in seen:
                yield from _sections(inner, seen | {kind})


def _explain(schema: dict[str, Any], section: type[BaseModel]) -> None:
    """Put the comments of a section's fields into its schema."""
    comments = field_comments(section)
    for name, field in section.model_fields.items():
        if name in comments:
            schema["properties"][field.alias or name]["description"] = comments[name]
