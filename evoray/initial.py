"""A first config: the keys of a run with what they mean and their defaults, and those that were given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from evoray.config import RunConfig
from evoray.config.section import may_be_null, section_in
from evoray.config.task import with_path
from evoray.config_comments import field_comments, first_line
from evoray.config_file import build_config
from evoray.errors import ConfigError
from evoray.pool import find_target
from evoray.pool.files import expand

_HEAD = """\
# A run of evoray: `evoray run {name}`, and before it `evoray plan {name}` for what it will take.
#
# A key behind # has the value that is shown. To change one, delete the # before it, and the one before the section that
# it is in. Relative pool, target, labels and a local model start from this file's folder, out from the current one.

"""


def write_initial(path: Path, given: Mapping[str, Any]) -> RunConfig:
    """Write a config with some keys, by their path (`selection.k`), and others behind # with their defaults: all but
    those of sections that a run may do without.

    pool and target are looked at. Raises ConfigError, PoolError and TargetError for what a run would refuse at its
    start, and ConfigError where there is a file already.
    """
    if path.exists():
        raise ConfigError(f"{path}, which exists", "a new file", "choose another name, or delete it")
    expand(given["pool"])
    find_target(given["target"])
    folder = path.absolute().parent
    local = ["pool", "target"]
    if given.get("model") and Path(given["model"]).is_dir():  # else it is the name of a model
        local.append("model")
    given = {**given, **{name: with_path(given[name], lambda place: _beside(place, folder)) for name in local}}
    text = initial_text(path.name, given)
    config = build_config(yaml.safe_load(text))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error}", "a file that can be written", "choose another folder") from error
    return config


def initial_text(name: str, given: Mapping[str, Any]) -> str:
    """The config as YAML."""
    return _HEAD.format(name=name) + "\n".join(_lines(RunConfig, given, "", "")) + "\n"


def _lines(section: type[BaseModel], given: Mapping[str, Any], path: str, indent: str) -> Iterator[str]:
    comments, apart = field_comments(section), False
    for name, field in section.model_fields.items():
        key = field.alias or name
        full = f"{path}{key}"
        inner, optional = section_in(field.annotation), may_be_null(field.annotation)
        about = comments.get(name, "") or (first_line(inner) if inner else "")
        if inner is None or optional:
            shown = full in given
            value = given[full] if shown else field.get_default(call_default_factory=True)
            yield from [""] * apart
            yield _line(f"{indent}{key}: {_scalar(value)}", about, shown)
        else:
            yield ""
            yield _line(f"{indent}{key}:", about, any(one.startswith(f"{full}.") for one in given))
            yield from _lines(inner, given, f"{full}.", f"{indent}  ")
        apart = inner is not None and not optional


def _line(text: str, comment: str, shown: bool) -> str:
    return ("" if shown else "#") + text + (f"  # {comment}" if comment else "")


def _scalar(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _beside(place: str, folder: Path) -> str:
    """A path that starts from the config's folder instead of the current one."""
    if "://" in place or Path(place).expanduser().is_absolute():
        return place
    return os.path.relpath(place, folder)
