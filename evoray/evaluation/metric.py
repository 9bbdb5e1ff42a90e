"""A metric of the user's: `package.module:function`, called as `function(row, response)` for every answer.

It is named by the hash of its module's file, so that no score of an earlier version of the file answers for it; what
the module itself imports is not part of the name. A worker loads that very file where it can be reached, and else the
module of this name on its own path (the working directory of a job on a cluster): a file with another content is
refused.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from evoray.errors import ConfigError, StageError
from evoray.records import Row

Judge = Callable[[Row, str], float | None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Where a metric is found, and the SHA-256 of its module's file."""

    module: str
    function: str
    file: str
    digest: str

    @property
    def root(self) -> Path:
        """The folder from which the module is imported."""
        parts = self.module.count(".") + (Path(self.file).name == "__init__.py")
        return Path(self.file).parents[parts]


def find_metric(name: str) -> Metric:
    """Find the file of a metric, first in the current directory. Raises ConfigError.

    The module is not run here (its parent packages are): what it imports is for the workers.
    """
    module, _, function = name.partition(":")
    file = None if module == "__main__" else _file(_spec(module, str(Path.cwd())))
    if file is None:
        raise ConfigError(
            f"evaluation.scorer: {name!r}, and there is no file of a module {module!r}",
            "package.module:function of a module in the current directory or an installed one",
            f"correct the name, or run evoray in the folder that holds {module.replace('.', '/')}.py",
        )
    return Metric(module=module, function=function, file=str(file), digest=_digest(file))


def load_metric(metric: Metric, *, bounded: bool = True) -> Judge:
    """Run the metric's module and return its function, which then checks what it is given back.

    bounded: it gives verdicts, from 0 to 1; else any finite number.

    Raises ConfigError where the module is not to be had here, differs from the one that was found, cannot be imported,
    or has no such function. The function raises StageError for a value that is no verdict, and for an error of its own.
    """
    module = _load(metric)
    function = getattr(module, metric.function, None)
    if not callable(function):
        raise ConfigError(
            f"evaluation.scorer: {metric.file} has no function {metric.function!r}",
            "a function of a row and a response",
            "correct the name",
        )

    def judge(row: Row, response: str) -> float:
        try:
            value = function(row, response)
        except Exception as error:
            raise StageError(
                f"{metric.module}:{metric.function} on row {row.id}: {type(error).__name__}: {error}",
                "a metric that judges every response, the empty one too",
                "correct the function",
            ) from error
        return _verdict(value, metric, row, bounded)

    return judge


def _verdict(value: Any, metric: Metric, row: Row, bounded: bool) -> float:
    number = isinstance(value, bool | int | float | np.bool_ | np.number)
    if not number or not math.isfinite(value) or (bounded and not 0 <= value <= 1):
        raise StageError(
            f"{metric.module}:{metric.function} gave {value!r} for row {row.id}",
            "True, False, or a number from 0 to 1" if bounded else "a finite number",
            "correct the function",
        )
    return float(value)


def _load(metric: Metric) -> Any:
    root = str(metric.root)
    if root not in sys.path:
        sys.path.append(root)  # for what it imports from beside it, now or when it is called; last: shadows none
    path = Path(metric.file)
    file = path if path.is_file() else _file(_spec(metric.module, root))
    if file is None or _digest(file) != metric.digest:
        raise ConfigError(
            f"evaluation.scorer: module {metric.module!r} of {metric.file}, "
            + ("which this worker cannot find" if file is None else f"and another content in {file} on this worker"),
            "one file that every worker reaches, unchanged while scores are computed",
            "put it on storage that every node reaches, or into the job's --working-dir; then try again",
        )
    spec = importlib.util.spec_from_file_location(metric.module, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"evaluation.scorer: {file}", "a Python module", "name a module whose source is a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[metric.module] = module  # in place of one that this process loaded before the file was edited
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"evaluation.scorer: {file} cannot be imported: {type(error).__name__}: {error}",
            "a module that the workers can import, and all that it imports",
            "correct the module, or install what it needs on every node",
        ) from error
    return module


def _spec(module: str, folder: str) -> ModuleSpec | None:
    """Where a module is, `folder` searched first; None where there is none."""
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # no parent package; a module that was made on the spot
        return None
    finally:
        sys.path.remove(folder)


def _file(spec: ModuleSpec | None) -> Path | None:
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
