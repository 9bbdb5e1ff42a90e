"""Read a configuration: one YAML file, overrides of single keys, and what differs between two of them.

An unknown key is an error that names the nearest key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from evoray.config import RunConfig
from evoray.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = (), **values: Any) -> RunConfig:
    """Read a YAML config; `overrides` are `section.key=value` strings, `values` top-level keys.

    Relative `pool`, `target`, `labels` and local models are taken from the config's own folder.
    Raises ConfigError for a missing or broken file, unknown keys and values out of range.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no file {path}", "a YAML config", "check the path") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}", "a readable YAML config", "mend the file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: {type(data).__name__}", "a mapping of keys", "see the README's example")
    _resolve_paths(data, path.absolute().parent)
    for text in overrides:
        apply_override(data, text)
    data.update({key: value for key, value in values.items() if value is not None})
    return build_config(data)


def build_config(data: Mapping[str, Any]) -> RunConfig:
    """Validate a mapping. Raises ConfigError that names the key, what it held and the nearest key."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise _explain(first["loc"], first["type"], first["msg"], first.get("input")) from error


def apply_override(data: dict[str, Any], text: str) -> None:
    """Set one `section.key=value` in a nested mapping; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text}", "key=value, for example selection.k=200", "write the key and its value")
    *parents, last = key.strip().split(".")
    node = data
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {text}: {name} is no section", "a section's key", "check the key")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: {error}", "a YAML value", "quote the value") from error


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    def resolve(value: Any) -> Any:
        if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
            return value
        return str(folder / Path(value).expanduser())

    for key in ("pool", "target", "labels"):
        value = data.get(key)
        data.update({key: [resolve(item) for item in value] if isinstance(value, list) else resolve(value)})
        if data[key] is None:
            del data[key]
    # A model is a hub id unless a folder of that name stands beside the config.
    if isinstance(data.get("model"), str) and (folder / data["model"]).is_dir():
        data["model"] = str(folder / data["model"])


def _explain(location: tuple[int | str, ...], kind: str, message: str, value: Any) -> ConfigError:
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else "remove the key"
        return ConfigError(f"unknown config key {key!r}", f"one of {', '.join(known)}", remedy)
    if kind == "missing":
        return ConfigError(f"no config key {key!r}", "a value for it", f"add {key}: ... to the config")
    return ConfigError(f"{key} = {value!r}", message, "change the value in the config or with --set")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in location:
        fields = section.model_fields
        annotation = fields[str(part)].annotation if str(part) in fields else RunConfig
        choices = [kind for kind in get_args(annotation) if kind is not NoneType] or [annotation]
        section = choices[0]  # of a section that may be left out
    return sorted(field.alias or name for name, field in section.model_fields.items())


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys whose values differ, as lines `key: old -> new`."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
