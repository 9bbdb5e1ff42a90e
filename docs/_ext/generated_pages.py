"""What is made out of the source, by the names of its places in the pages. Needs no Sphinx: tests look at it too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from command_pages import command_page
from config_pages import config_page, key_table, selector_block

from evoray.comparison_config import ComparisonConfig, EntryConfig
from evoray.config import MachineConfig, RunConfig

#: Sections that a comparison has as a run has them.
SHARED = ("reading", "lora", "features", "selection", "training", "feedback", "evaluation", "cluster")
PLACE = re.compile(r"^<!-- evoray: (\w+) ?([\w:.]*) -->$", re.MULTILINE)

_ROOT = Path(__file__).parents[2]


def run_files() -> str:
    """The files of a run directory, as CONTRIBUTING.md lists them."""
    text = (_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition("## The way of the data through a run directory\n\n")[2].partition("\n\n")[0]


MAKERS: dict[str, Callable[[str], str]] = {
    "config": lambda _: config_page(RunConfig),
    "comparison": lambda _: config_page(ComparisonConfig, skip=SHARED),
    "entry": lambda _: key_table(EntryConfig),
    "machine": lambda _: key_table(MachineConfig),
    "commands": lambda _: command_page(),
    "selector": selector_block,
    "files": lambda _: run_files(),
}


def generated(text: str) -> str:
    """A page with what is made out of the source in its places. Raises KeyError for a place that nothing fills."""
    return PLACE.sub(lambda place: MAKERS[place[1]](place[2]), text)
