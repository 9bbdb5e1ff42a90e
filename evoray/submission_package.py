"""What travels with a submitted run: its config, the files that it names by relative paths, and modules of the user's.

All else stays where it is: absolute paths and bucket URIs are the cluster's to reach. On the cluster the package is the
current directory and the config's folder in one, so that relative paths start there whichever of the two they started
from here.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from evoray.config import RunConfig
from evoray.config.task import with_path
from evoray.config_file import apply_override, read_yaml
from evoray.errors import ConfigError

CONFIG = "submitted.yaml"  # as the cluster reads it

#: Keys that hold paths, and whether these start from the config's folder; the others start from the current one.
_PATHS = {
    ("pool",): True,
    ("target",): True,
    ("labels",): True,
    ("model",): True,
    ("features", "model"): False,
    ("features", "adapter"): False,
    ("features", "cascade", "model"): False,
    ("generation", "model"): False,
}
#: Of these, what is no folder here is a name on the hub or at an endpoint.
_NAMES = {path for path in _PATHS if path[-1] == "model"}
#: Keys that may name code of the user's, as module:name.
_CODE = (("selection", "selector"), ("evaluation", "scorer"), ("feedback", "scorer"))

_LARGEST = 400 * 2**20  # bytes; Ray takes half a gigabyte, and keeps it in the memory of the head
_GLOB = "*?["


@dataclass(kw_only=True)
class Package:
    """The config as the cluster reads it, and the files to lay beside it by their names there."""

    settings: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, overrides: Sequence[str], here: Path) -> Package:
        """Of a config file with `--set` overrides. Raises ConfigError for a file that is not there, or too many."""
        package, beside = cls(settings=read_yaml(path)), path.absolute().parent
        for text in overrides:
            apply_override(package.settings, text)
        given = {tuple(text.partition("=")[0].strip().split(".")) for text in overrides}
        for key, from_config in _PATHS.items():
            base = beside if from_config and key not in given else here
            package._take(key, base, here=base != beside)
        for key in _CODE:
            package._take_code(_at(package.settings, key), (here, beside))
        size = sum(source.stat().st_size for source in package.files.values())
        if size > _LARGEST:
            raise ConfigError(
                f"{size / 2**20:.0f} MB of files that the config names by relative paths",
                f"at most {_LARGEST / 2**20:.0f} MB that travel with a job",
                "put them on storage that every node reaches, and name them by an absolute path or a bucket URI",
            )
        return package

    def write(self, folder: Path) -> None:
        """Lay it out."""
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")
        for name, source in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, folder / name)
            except OSError as error:
                raise ConfigError(
                    f"{source}: {error.strerror}", "a file that can be read, and then travels", "mend its permissions"
                ) from error

    def _take(self, key: tuple[str, ...], base: Path, here: bool) -> None:
        """Have the relative paths at a key travel, and the config name them as they are called in the package."""
        held = _at(self.settings, key)
        if isinstance(held, str):
            _put(self.settings, key, self._named(key, held, base, here))
        elif isinstance(held, list | tuple):
            _put(self.settings, key, [self._named(key, one, base, here) for one in held])

    def _named(self, key: tuple[str, ...], text: Any, base: Path, here: bool) -> Any:
        return with_path(text, lambda path: self._path(key, path, base, here)) if isinstance(text, str) else text

    def _path(self, key: tuple[str, ...], text: str, base: Path, here: bool) -> str:
        outside = "://" in text or text.startswith("~") or Path(text).is_absolute()
        if outside or (key in _NAMES and not (base / text).is_dir()):
            return text
        found = sorted(base.glob(text)) if _is_glob(text) else [base / text]
        if not found or not found[0].exists():
            raise ConfigError(
                f"{'.'.join(key)} = {text!r}, which is not in {base}",
                "files that are there, and then travel with the job; an absolute path; or a bucket URI",
                "correct the path",
            )
        for source in (source for match in found for source in _files_of(match)):
            self._add(_packed(str(source.relative_to(base)), here), source)
        return _packed(text, here)

    def _take_code(self, name: Any, folders: Sequence[Path]) -> None:
        """A module beside the run, with those beside it that it imports; what is installed is the cluster's to have."""
        if not isinstance(name, str) or ":" not in name:
            return
        top = name.partition(":")[0].partition(".")[0]
        folder = next((one for one in folders if _modules(one, top)), None)
        waiting = [] if folder is None else [top]
        while folder is not None and waiting:
            for source in _modules(folder, waiting.pop()):
                known = source.relative_to(folder).as_posix() in self.files
                self._add(source.relative_to(folder).as_posix(), source)
                if source.suffix == ".py" and not known:
                    waiting += _imported(source)

    def _add(self, name: str, source: Path) -> None:
        if name == CONFIG or self.files.get(name, source).resolve() != source.resolve():
            raise ConfigError(
                f"{source} and {self.files.get(name, CONFIG)}, which are both called {name} on the cluster",
                "files of different names",
                "rename one, or name it by an absolute path that every node reaches",
            )
        self.files[name] = source


def keys_of(config: RunConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables with secrets that a config names, as far as they are set here."""
    generation = config.generation
    asked = generation.key_env if generation is not None and generation.source == "endpoint" else None
    return {asked: environment[asked]} if asked is not None and environment.get(asked) else {}


def _at(settings: Mapping[str, Any], key: Sequence[str]) -> Any:
    held: Any = settings
    for part in key:
        held = held.get(part) if isinstance(held, Mapping) else None
    return held


def _put(settings: dict[str, Any], key: Sequence[str], value: Any) -> None:
    *parents, last = key
    for part in parents:
        settings = settings[part]
    settings[last] = value


def _packed(text: str, here: bool) -> str:
    """What a relative path is called in the package, where those from the config's folder stand at the top."""
    parts = ["up" if part == ".." else part for part in PurePosixPath(text).parts]
    return str(PurePosixPath(*(["here"] if here else []), *parts))


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in _GLOB)


def _files_of(path: Path) -> Iterator[Path]:
    """The file itself, or all files below a folder, but for hidden ones and what Python compiled."""
    if path.is_file():
        yield path
        return
    for folder, below, names in os.walk(path):  # which follows no link to a folder
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__pycache__")
        files = (Path(folder) / name for name in sorted(names) if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _modules(folder: Path, top: str) -> list[Path]:
    """The files of a module or package in a folder; none for one of Python's or evoray's own."""
    if top in sys.stdlib_module_names or top == "evoray":
        return []
    if (folder / f"{top}.py").is_file():
        return [folder / f"{top}.py"]
    return list(_files_of(folder / top)) if any((folder / top).glob("*.py")) else []


def _imported(source: Path) -> list[str]:
    """First names of what a file imports by absolute names."""
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{source}: {error}", "a module of Python", "correct it") from error
    nodes = list(ast.walk(tree))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    whole = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return [name.partition(".")[0] for name in (*plain, *whole)]
