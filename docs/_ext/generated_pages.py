"""What is made out of the source, by the names of its places in the pages. Needs no Sphinx: tests look at it too."""

from __future__ import annotations

import re
from collections.abc import Callable

from command_pages import command_page
from config_pages import config_page, key_table, selector_block

from evoray.comparison_config import ComparisonConfig, EntryConfig
from evoray.config import MachineConfig, RunConfig

#: Sections that a comparison has as a run has them.
SHARED = ("reading", "lora", "features", "selection", "training", "feedback", "evaluation", "cluster")
PLACE = re.compile(r"^<!-- evoray: (\w+) ?([\w:.]*) -->$", re.MULTILINE)

MAKERS: dict[str, Callable[[str], str]] = {
    "config": lambda _: config_page(RunConfig),
    "comparison": lambda _: config_page(ComparisonConfig, skip=SHARED),
    "entry": lambda _: key_table(EntryConfig),
    "machine": lambda _: key_table(MachineConfig),
    "commands": lambda _: command_page(),
    "selector": selector_block,
}


def generated(text: str) -> str:
    """A page with what is made out of the source in its places. Raises KeyError for a place that nothing fills."""
    return PLACE.sub(lambda place: MAKERS[place[1]](place[2]), text)
