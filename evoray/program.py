"""How a program of evoray ends, whichever it is: messages, exit codes, and the command that goes on."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console

from evoray.errors import EvorayError, UserError

COMMAND = "EVORAY_COMMAND"  # environment variable: what was typed where a job was submitted from
#: Exit codes by which typer passes Ctrl-C on, and Ray SIGTERM.
_INTERRUPTED = (130, signal.SIGTERM)


def run_program(program: Callable[[], object]) -> None:
    """Run a program and end the process where it fails: an EvorayError without a traceback, with its exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        program()
    except EvorayError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        if not isinstance(error, UserError):
            typer.echo(f"to go on from here: {typed()}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code in _INTERRUPTED:
            typer.echo(f"interrupted; to go on from here: {typed()}", err=True)
        raise


def typed() -> str:
    """What was typed, but for what would delete the work: the installed command, or a program of Python."""
    if os.environ.get(COMMAND):
        return os.environ[COMMAND]
    program, *arguments = (part for part in sys.argv if part != "--anew")
    installed = Path(program).suffix != ".py" or Path(program).parent == Path(__file__).parent
    return shlex.join(["evoray", *arguments] if installed else ["python", program, *arguments])
