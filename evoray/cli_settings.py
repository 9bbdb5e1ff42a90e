"""From flags of the command line to a config: defaults or a file, then `--set`, then flags."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

from evoray.errors import ConfigError

if TYPE_CHECKING:
    from evoray.config import RunConfig


#: What `evoray init` asks for, by key of the config; None: it has no default.
_QUESTIONS: dict[str, tuple[str, str | None]] = {
    "pool": ("Candidates (a file, folder or glob of Parquet, JSONL, CSV or Arrow)", None),
    "target": ("Task (a file of examples, a folder with dev and test files, or lm-eval:NAME)", None),
    "model": ("Model (hub id, local directory, or smollm2)", "smollm2"),
    "out": ("Run directory or bucket URI", "evoray-run"),
    "rounds": ("Rounds of choosing and training", "2"),
    "selection.k": ("Rows to choose in a round (500), or a share (0.2), or tokens (100000tok)", "96"),
}


def answers(given: dict[str, Any]) -> dict[str, Any]:
    """Keys of a config with what was given for them, or with what a person answers in a terminal; elsewhere those that
    have a default are left to it. Raises ConfigError for what is still missing.
    """
    found = {key: value for key, value in given.items() if value is not None}
    missing = [key for key, (_, default) in _QUESTIONS.items() if key not in found and default is None]
    if sys.stdin.isatty():
        for key, (question, default) in _QUESTIONS.items():
            if key not in found:
                found[key] = typer.prompt(question, default=default)
    elif missing:
        flags = " and ".join(f"--{key}" for key in missing)
        raise ConfigError(f"no {flags}, and no terminal to ask in", "both in the command", f"add {flags}")
    return found | {key: _number(found[key]) for key in ("rounds", "selection.k") if key in found}


def _number(text: Any) -> Any:
    """What was typed as a number, or the text that it is."""
    try:
        return yaml.safe_load(str(text))
    except yaml.YAMLError:
        return text


def option(text: str) -> tuple[str, Any]:
    """`name=value` of `--option`; the value is read as YAML."""
    from evoray.config_file import apply_override

    data: dict[str, Any] = {}
    apply_override(data, text)
    return next(iter(data.items()))


def sections(overrides: list[str] | None, address: str | None, **flags: dict[str, Any]) -> RunConfig:
    """Sections for a single stage: defaults, then flags, then `--set`."""
    from evoray.config_file import apply_override, build_config

    data: dict[str, Any] = {"pool": "-", "target": "-", "rounds": 1, **flags}
    for text in [*(overrides or []), *_address(address)]:
        apply_override(data, text)
    return build_config(data)


def run_config(
    config: Path, address: str | None, overrides: list[str] | None, out: str | None, seed: int | None
) -> RunConfig:
    """A run's YAML file, then `--set`, then flags."""
    from evoray.config_file import load_config

    return load_config(config, [*(overrides or []), *_address(address)], out=out, seed=seed)


def kept_in(scores: str | None) -> AbstractContextManager[str | Path]:
    """The folder of scores, or one that is deleted."""
    from evoray.storage import scratch_folder

    return nullcontext(scores) if scores else scratch_folder()


def _address(address: str | None) -> list[str]:
    return [f"cluster.address={address}"] if address else []
