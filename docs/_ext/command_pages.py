"""The reference of the command line, as Markdown: made from the typer app itself."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import typer.main
from config_pages import table

_VALUES = {str: "TEXT", int: "NUMBER", Path: "FILE"}


def commands() -> dict[str, Any]:
    """The commands by name, in the order in which `evoray --help` lists them."""
    from evoray.cli import app

    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def before_commands() -> list[Any]:
    """The options that stand before a command, but for those by which shells complete."""
    from evoray.cli import app

    return [one for one in typer.main.get_command(app).params if one.envvar]


def options_of(command: Any) -> set[str]:
    """All ways to write its options."""
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts) if option.startswith("-")}


def command_page() -> str:
    """The options before a command; every command: usage, what it does, arguments and options."""
    before = [(f"`{one.opts[0]}`", f"`{one.envvar}=1`", one.help) for one in before_commands()]
    title = "## `evoray [OPTIONS] COMMAND`\n\nThese stand before the command, and a flag goes before a variable.\n\n"
    everywhere = title + table(("option", "as a variable of the environment", "what it does"), before)
    return "\n\n".join([everywhere, *(_command(name, command) for name, command in commands().items())])


def _command(name: str, command: Any) -> str:
    arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
    needed = [f"{one.opts[0]} ..." for one in command.params if one.param_type_name == "option" and one.required]
    usage = " ".join(["evoray", name, *arguments, *needed, "[OPTIONS]"])
    # The types of the function behind a command: what typer keeps of them differs between its versions.
    kinds = typing.get_type_hints(_functions()[name])
    rows = [(_written(one, kinds[one.name]), _default(one), one.help or "") for one in command.params]
    return f"## `evoray {name}`\n\n{command.help}\n\n```text\n{usage}\n```\n\n" + table(
        ("argument or option", "default", "what it is"), rows
    )


def _functions() -> dict[str, Any]:
    from evoray.cli import app

    found = [(info.name, info.callback) for info in app.registered_commands]
    return {name or function.__name__.replace("_", "-"): function for name, function in found if function is not None}


def _argument(one: Any) -> str:
    name = one.name.upper()
    return name if one.required else f"[{name}]"


def _written(one: Any, kind: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{one.name.upper()}`"
    ways = [*one.opts, *one.secondary_opts]
    plain = [part for part in (kind, *typing.get_args(kind)) if part in _VALUES]
    lists = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is list]
    value = " TEXT" if lists else f" {_VALUES[plain[0]]}" if plain else ""
    more = ", repeatable" if lists else ""
    return ", ".join(f"`{way}{value}`" for way in ways) + more


def _default(one: Any) -> str:
    """What stands in where nothing is given; an environment variable comes before it."""
    if one.required:
        return "required"
    known = isinstance(one.default, str | int | float | bool)
    shown = f"`{str(one.default).lower() if isinstance(one.default, bool) else one.default}`" if known else "none"
    return f"`${one.envvar}`, else {shown}" if one.envvar else shown
