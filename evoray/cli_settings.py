"""From flags of the command line to a config: defaults or a file, then `--set`, then flags."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoray.config import RunConfig


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
