"""Pages of Markdown: their code, the commands, keys, files and links in it, and which of them there are."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml
from command_pages import before_commands, commands, options_of
from config_pages import config_keys, slug
from generated_pages import generated

from evoray.comparison_config import ComparisonConfig
from evoray.config import RunConfig
from tests.source_tree import ROOT

#: A path of a machine, a person's folder, or an address within a network.
MACHINE = re.compile(r"/(?:work|root|tmp/(?!ray))\b|/home/(?!evoray\b)\w+|\b10\.\d+\.\d+\.\d+(?!/20)\b")

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
#: Files of ours that a page names, from the project's root. What has a placeholder in it names none.
_FILE = re.compile(r"(?<![\w./-])(?:evoray|tests|jobs|benchmarks|cluster_configs|docs)/[\w./-]*")
_SUFFIX = re.compile(r"\.(?:json|jsonl|py|md|html|yaml|yml|parquet|safetensors)$")


def blocks(text: str, *languages: str) -> list[str]:
    """The code of all blocks in one of these languages; "" is a block without one."""
    return [code for _, language, code in _FENCE.findall(text) if language.strip() in languages]


def spans(text: str) -> list[str]:
    """All code within lines."""
    return _INLINE.findall(_FENCE.sub("", text))


def shell_lines(text: str, *languages: str) -> list[str]:
    """Commands of blocks, a line each, as a shell would join them."""
    found = blocks(text, *(languages or ("bash",)))
    return [line.strip() for block in found for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def lines_of(text: str, program: str) -> list[str]:
    """Where a program is called by name: in a block for a shell or without a language, or within a line."""
    named = [*shell_lines(text, "bash", ""), *spans(text)]
    return [line for line in named if line.startswith(f"{program} ")]


def whole(path: Path) -> str:
    """A page with what it includes and what is made out of the source."""
    text = generated(path.read_text(encoding="utf-8"))
    for _, language, code in _FENCE.findall(text):
        if language.startswith("{include}"):
            text += "\n" + (path.parent / language.removeprefix("{include}").strip()).read_text(encoding="utf-8") + code
    return text


def anchors(path: Path) -> set[str]:
    """What a link can name in a page."""
    return {slug(title.replace("`", "")) for title in _HEADING.findall(_FENCE.sub("", whole(path)))}


def broken_links(path: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    text = _INLINE.sub("", _FENCE.sub("", generated(path.read_text(encoding="utf-8"))))
    broken = []
    for link in _LINK.findall(text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if "://" in link:
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_files(text: str) -> list[str]:
    """Files of the project that a text names and that are not there."""
    named = [name for code in spans(text) if "<" not in code and "*" not in code for name in _FILE.findall(code)]
    return [name for name in named if not (ROOT / name.rstrip("./")).exists()]


@cache
def known_keys() -> dict[str, Any]:
    """Every key of a run's and of a comparison's config, by its full name."""
    return config_keys(RunConfig) | config_keys(ComparisonConfig)


def unknown_keys(text: str) -> list[str]:
    """Keys of the config that a text names within its lines, and that no config has."""
    sections = "|".join(sorted({key for key, section in known_keys().items() if section and "." not in key}))
    key = re.compile(rf"(?<![\w./-])(?:{sections})(?:\.[a-z_]+)+")
    named = [name for code in spans(text) for name in key.findall(code) if not _SUFFIX.search(name)]
    return [name for name in named if name not in known_keys()]


def unknown_to_evoray(line: str) -> list[str]:
    """What of a call of `evoray`, or of a line of usage, the command line does not have: a command, options, keys."""
    words = line.split()[1:]
    name = next((word for word in words if not word.startswith("-")), "--help")
    if name.isupper() or name.startswith("-"):
        return []  # a placeholder for any of them
    if name not in commands():
        return [name]
    before, _, after = line.partition(f" {name}")
    known = options_of(commands()[name]) | {"--help"}
    everywhere = {option for one in before_commands() for option in one.opts}
    keys = [key for key in re.findall(r"--set[ =]([a-z_.]+)=", line) if key != "key"]
    unknown = [one for one in _OPTION.findall(before) if one not in everywhere]
    unknown += [one for one in _OPTION.findall(after) if one not in known]
    return unknown + [one for one in keys if one not in known_keys()]


def unknown_to_make(line: str) -> list[str]:
    """Targets of a call of `make` that the Makefile does not have."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return [word for word in line.partition("#")[0].split()[1:] if "=" not in word and word not in targets]


def mappings_of(text: str) -> Iterator[dict[str, Any]]:
    """Configs and parts of configs in a page's blocks of YAML."""
    for block in blocks(text, "yaml"):
        found = yaml.safe_load(block)
        if isinstance(found, dict):
            yield found


def check_python(text: str) -> None:
    """Raise SyntaxError for a block of Python that is none."""
    for block in blocks(text, "python"):
        ast.parse(block)


@cache
def _ray() -> click.Group:
    from ray.scripts.scripts import cli

    group: click.Group = cli
    return group


def _without_shell(words: Sequence[str]) -> list[str]:
    """The words up to what a shell takes for itself."""
    ends = [index for index, word in enumerate(words) if word in ("&&", ";", "|", ">", "--")]
    return list(words[: min(ends, default=len(words))])


def unknown_to_ray(line: str) -> list[str]:
    """Words of a command that Ray's own command line does not know: a command, or its options."""
    words = _without_shell(shlex.split(line, comments=True))[1:]
    command: click.Command = _ray()
    while isinstance(command, click.Group):
        if not words or words[0] not in command.commands:
            return words[:1]
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
