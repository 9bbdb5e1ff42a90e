"""Read a configuration: one YAML file, overrides of single keys, and what differs between two of them.

An unknown key is an error that names the nearest key.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from os.path import normpath
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from evoray.config import RunConfig
from evoray.config.section import sections_in
from evoray.config.task import with_path
from evoray.errors import ConfigError

#: Values in messages: YAML's aliases can make a few lines stand for gigabytes.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200


def load_config(path: str | Path, overrides: Sequence[str] = (), **values: Any) -> RunConfig:
    """Read a YAML config; `overrides` are `section.key=value` strings, `values` top-level keys.

    Relative `pool`, `target`, `labels` and local models are taken from the config's own folder.
    Raises ConfigError for a missing or broken file, unknown keys and values out of range.
    """
    return build_config(read_settings(Path(path), overrides, values, ("pool", "target", "labels")))


def read_settings(
    path: Path, overrides: Sequence[str], values: Mapping[str, Any], paths: Sequence[str]
) -> dict[str, Any]:
    """The mapping in a YAML file, with overrides and top-level values. paths: keys that are taken from its folder."""
    data = read_yaml(path)
    _resolve_paths(data, path.absolute().parent, paths)
    for text in overrides:
        apply_override(data, text)
    data.update({key: value for key, value in values.items() if value is not None})
    return data


class _Loader(yaml.SafeLoader):
    """YAML's plain values alone; a key that stands twice in a mapping is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the parent's."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError."""
    try:
        data = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError as error:
        raise ConfigError(f"no file {path}", "a YAML config", "check the path") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deep", "a readable YAML config", "mend the file") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: bytes that are no text, the 30th of February
        raise ConfigError(f"{path}: {error}", "a readable YAML config", "mend the file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: {type(data).__name__}", "a mapping of keys", "see the README's example")
    return data


def build_config(data: Mapping[str, Any]) -> RunConfig:
    """Validate a mapping. Raises ConfigError that names the key, what it held and the nearest key."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, RunConfig) from error


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
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {text}: {error}", "a YAML value", "quote the value") from error


def _resolve_paths(data: dict[str, Any], folder: Path, keys: Sequence[str]) -> None:
    """Take the relative paths of some keys, and of a local model, from a folder."""

    def beside(path: str) -> str:
        return path if "://" in path or Path(path).is_absolute() else normpath(folder / Path(path).expanduser())

    def resolve(value: Any) -> Any:
        return with_path(value, beside) if isinstance(value, str) else value

    for key in keys:
        value = data.get(key)
        if isinstance(value, list):
            data[key] = [resolve(item) for item in value]
        elif isinstance(value, dict):
            data[key] = {name: resolve(item) for name, item in value.items()}
        elif value is not None:
            data[key] = resolve(value)
        else:
            data.pop(key, None)
    # A model is a hub id unless a folder of that name stands beside the config.
    if isinstance(data.get("model"), str) and (folder / Path(data["model"]).expanduser()).is_dir():
        data["model"] = normpath(folder / Path(data["model"]).expanduser())


def explain(error: ValidationError, root: type[BaseModel]) -> ConfigError:
    """What is wrong first, as an error that names the key, what it held and the nearest key."""
    first = error.errors()[0]
    location, kind, message, value = first["loc"], first["type"], first["msg"], first.get("input")
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        known = _keys_at(location[:-1], root)
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else "remove the key"
        return ConfigError(f"unknown config key {key!r}", f"one of {', '.join(known)}", remedy)
    if kind == "invalid_key":
        return ConfigError(f"the config key {key}, which is no text", "a name as key", "remove it, or put it in quotes")
    if kind == "missing":
        return ConfigError(f"no config key {key!r}", "a value for it", f"add {key}: ... to the config")
    return ConfigError(f"{key} = {_SHORT.repr(value)}", message, "change the value in the config or with --set")


def _keys_at(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    section = root
    for part in location:
        fields = section.model_fields
        found = next(sections_in(fields[str(part)].annotation), None) if str(part) in fields else None
        section = found or section  # a number is a place in a list of sections
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
