"""Options that several commands share, and those that stand before the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evoray.config import SELECTORS

_SELECTORS = f"{', '.join(SELECTORS)}, or your own as package.module:Class; evoselect where none is named."

Out = Annotated[str, typer.Option("--out", help="Folder or bucket URI for the results.", show_default=False)]
Pool = Annotated[str, typer.Option("--pool", help="Candidates: a file, folder or glob of Parquet, JSONL, CSV, Arrow.")]
Target = Annotated[str, typer.Option("--target", help="Task: a dev file, folder of dev and test, or lm-eval:NAME.")]
Model = Annotated[str, typer.Option("--model", help="Hub id, local directory, or smollm2 (embedded).")]
Adapter = Annotated[str | None, typer.Option("--adapter", help="LoRA adapter directory.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster to join; none: this machine alone.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
EvaluatedSplit = Annotated[str, typer.Option("--split", help="validate or test.")]
ResultFile = Annotated[Path | None, typer.Option("--out", help="JSON file for the result.")]
ScoresFolder = Annotated[
    str | None, typer.Option("--scores", help="Folder for what single rows score; equal requests are answered from it.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="A config key and its value: selection.k=200.")]
SelectorName = Annotated[str | None, typer.Option("--selector", help=_SELECTORS)]
SelectorOptions = Annotated[
    list[str] | None, typer.Option("--option", help="An option of the selector and its value: clusters=64.")
]
Features = Annotated[
    str | None, typer.Option("--features", help="Feature store, or Parquet with columns id and feature.")
]
TargetFeatures = Annotated[
    str | None, typer.Option("--target-features", help="The same of the target rows; then no model is needed.")
]

# Before the command.
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="Show nothing but results and errors.", envvar="EVORAY_QUIET", show_default=False),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Also show when stages begin, each line of events.jsonl, and what is waited for.",
        envvar="EVORAY_VERBOSE",
        show_default=False,
    ),
]
