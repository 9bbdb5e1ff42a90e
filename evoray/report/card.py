"""The card of a dataset of chosen rows: what is in it, where it comes from and how it was chosen, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from evoray.records import Row
from evoray.report.table import count, escape, markdown_table

#: Upper bounds of the size classes that dataset hubs know.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where chosen rows come from; None: not known, they were given as a file."""

    pool: str | None = None
    target: str | None = None
    model: str | None = None
    choices: Sequence[Mapping[str, Any]] = ()  # facts of the selection of each round


def data_card(rows: Sequence[Row], origin: Origin) -> str:
    """README.md of a dataset folder whose rows lie in `data/`."""
    head = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "size_categories": [next((name for bound, name in _SIZES.items() if len(rows) < bound), "n>1M")],
        "tags": ["evoray", "data-selection"],
    }
    sources = Counter(row.source or "not given" for row in rows).most_common()
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {len(rows):,} training samples, chosen by evoray",
        *_provenance(origin),
        "## Sources",
        markdown_table(("source", "rows"), [(name, count(number)) for name, number in sources]),
        "## Columns",
        "`id`; `messages` (role and content of each turn; turns of the assistant carry the loss); and, where a row has "
        "them, `source`, `choices`, `answer`, `quality`.",
        "## Licence",
        "Each row keeps the licence of the source that it was taken from.",
    ]
    return "\n\n".join(parts) + "\n"


def _provenance(origin: Origin) -> list[str]:
    named = {"pool": origin.pool, "target task": origin.target, "model": origin.model}
    lines = [f"* {name}: {escape(value)}" for name, value in named.items() if value]
    parts = ["\n".join(lines)] if lines else []
    return [*parts, "## How they were chosen", _choices(origin.choices)] if origin.choices else parts


def _choices(choices: Sequence[Mapping[str, Any]]) -> str:
    """One line a round; facts that no round has are left out."""
    shown = {"selector": "selector", "usable": "candidates", "lambda": "lambda", "r": "r", "eps": "eps"}
    names = [name for name in shown if any(facts.get(name) is not None for facts in choices)]
    rows = [(str(number), *(_cell(facts.get(name)) for name in names)) for number, facts in enumerate(choices, 1)]
    return markdown_table(("round", *(shown[name] for name in names)), rows)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
