"""The reference of configs and selectors, as Markdown: made from the models themselves, so that it cannot go stale."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from evoray.comparison_config import EntryConfig
from evoray.config import MachineConfig
from evoray.config.section import may_be_null, section_in
from evoray.config_comments import field_comments, first_line

Field = Any  # pydantic.fields.FieldInfo

#: What a selector's features cost, by the representation that its authors use.
COSTS = {
    "embed": "one pass of a sentence encoder over each row",
    "hidden_mean": "one forward pass of the proxy over each row",
    "rds": "one forward pass of the proxy over each row",
    "uncertainty": "one forward pass of the proxy over each row",
    "gradient": "a warm-up of the proxy, and one forward and backward pass over each row",
}
_LINKS = {EntryConfig: "[entry](#an-entry-of-selectors)", MachineConfig: "[machine](#a-machine)"}
_NAMES = {int: "int", float: "float", str: "str", bool: "bool", NoneType: "null"}


def config_page(root: type[BaseModel], *, skip: Sequence[str] = ()) -> str:
    """All keys of a config: those of its top, then each section. skip: sections that stand elsewhere."""
    return "\n\n".join(_sections(root, "", skip))


def _sections(model: type[BaseModel], path: str, skip: Sequence[str]) -> Iterator[str]:
    level = "##" + "#" * path.count(".") if path else "##"
    title = f"`{path}`" if path else "The top of the file"
    intro = (model.__doc__ or "").strip()
    yield f"{level} {title}\n\n{intro}\n\n{key_table(model, path, elsewhere=skip)}"
    for name, field in model.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None and name not in skip:
            yield from _sections(inner, f"{path}.{name}" if path else name, skip)


def key_table(model: type[BaseModel], path: str = "", *, elsewhere: Sequence[str] = ()) -> str:
    """The keys of one section, a row each: key, type, default and what its line of source says.

    elsewhere: sections that stand on the page of a run's config.
    """
    comments = field_comments(model)
    rows = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = section_in(field.annotation)
        full = f"{path}.{key}" if path else key
        page = "config.md" if name in elsewhere else ""
        kind = (
            type_of(field)
            if inner is None
            else f"[section]({page}#{slug(full)})" + " or `null`" * may_be_null(field.annotation)
        )
        said = comments.get(name, "") if inner is None else first_line(inner)
        rows.append((f"`{key}`", kind, default_of(field), said))
    return table(("key", "type", "default", "what it is"), rows)


def option_table(selector: type[BaseModel]) -> str:
    """The options of a selector."""
    comments = field_comments(selector)
    rows = [
        (f"`{field.alias or name}`", type_of(field), default_of(field), comments.get(name, ""))
        for name, field in selector.model_fields.items()
    ]
    return table(("option", "type", "default", "what it is"), rows) if rows else "It has no options."


def selector_block(name: str) -> str:
    """What a selector works on, what that costs, and its options."""
    from evoray.selection.selectors import selector_class

    kind = selector_class(name)
    needs = kind.needs  # type: ignore[attr-defined]
    features = "none" if not needs.features else f"`{needs.representation}`"
    if needs.features and needs.only:
        features += ", and no other"
    columns = ", ".join(f"`{column}`" for column in needs.columns) or "none beside the text"
    cost = COSTS[needs.representation] if needs.features else "none: rows are not read by any model"
    lines = [
        f"- Features: {features}",
        f"- Aims at the target: {'yes' if needs.features and needs.target else 'no'}",
        f"- Columns of the pool: {columns}",
        f"- Cost of the features: {cost}",
    ]
    options = (
        "Its options are keys of the [section `selection`](../reference/config.md#selection) itself."
        if name == "evoselect"
        else option_table(kind)
    )
    return "\n".join(lines) + f"\n\n{options}"


def type_of(field: Field) -> str:
    """A field's type in words, with the bounds of its numbers."""
    bounds = _bounds(field.metadata)
    return kind_of(field.annotation) + (f", {bounds}" if bounds else "")


def kind_of(annotation: Any) -> str:
    """A type in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either([f"`{_value(part)}`" for part in parts])
    if origin in (Union, UnionType):
        return _either([kind_of(part) for part in parts])
    if origin in (tuple, dict):
        return _container(origin, parts)
    if origin is Annotated:
        bounds = _bounds(parts[1].metadata)
        return kind_of(parts[0]) + (f" ({bounds})" if bounds else "")
    if annotation is Any:
        return "anything"
    return _LINKS.get(annotation) or f"`{_NAMES[annotation]}`"


def _container(origin: type, parts: Sequence[Any]) -> str:
    first, last = parts
    if origin is dict:
        return "mapping" if last is Any else f"mapping to {kind_of(last)}"
    return f"list of {kind_of(first)}" if last is ... else f"pair of {kind_of(first)}"


def _either(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _bounds(metadata: Sequence[Any]) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "at least"}
    found = [
        f"{word} {getattr(one, sign):g}" + (" long" if sign == "min_length" else "")
        for one in metadata
        for sign, word in signs.items()
        if getattr(one, sign, None) is not None
    ]
    return " and ".join(found)


def default_of(field: Field) -> str:
    """A field's default as it would stand in the file."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see there"
    return f"`{_value(field.default)}`"


def _value(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, str) and value and ":" not in value:
        return value
    return json.dumps(value)


def slug(title: str) -> str:
    """The anchor of a heading, as MyST makes it."""
    kept = (letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")
    return "".join(kept)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def config_keys(model: type[BaseModel], path: str = "") -> dict[str, type[BaseModel] | None]:
    """Every key of a config by its full name, with the section that it holds."""
    found: dict[str, type[BaseModel] | None] = {}
    for name, field in model.model_fields.items():
        full = f"{path}.{field.alias or name}" if path else field.alias or name
        found[full] = section_in(field.annotation)
        inner: Mapping[str, Any] = {} if found[full] is None else config_keys(found[full], full)  # type: ignore[arg-type]
        found |= inner
    return found
