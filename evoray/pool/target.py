"""The target: rows of the task to adapt to, in files by split, or a task of the LM Evaluation Harness (`harness.py`).

*align* is what selection aims at and *validate* what its settings are chosen on; both come from dev unless
files of their own are given. *test* is read only for the final table. Each split is read without opening
the files of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal, get_args

import numpy as np

from evoray.errors import PoolError, TargetError
from evoray.pool.files import expand, full_name
from evoray.pool.harness import open_task
from evoray.pool.whole import load_rows
from evoray.records import Quarantined, Row

Split = Literal["align", "validate", "test"]

_NAMES = ("dev", "align", "validate", "test")
_LAYOUT = "one file (it is dev), or a folder with dev.* (or both align.* and validate.*) and test.*"


@dataclass(frozen=True, kw_only=True)
class TargetFiles:
    """The file of each split, or how a task's documents of it are called; None where the target does not have one."""

    dev: str | None = None
    align: str | None = None
    validate: str | None = None
    test: str | None = None

    @property
    def splits_dev(self) -> bool:
        """Whether dev is to be cut into align and validate."""
        return self.align is None and self.validate is None


def find_target(path: str) -> TargetFiles:
    """The split files of a target. Raises TargetError where they are absent, ambiguous or insufficient.

    Beside dev, `align.*` or `validate.*` may stand alone: dev then serves whole as the other of the two. A task of the
    harness has dev, and test where it has test documents; raises as `open_task`.
    """
    task = open_task(path)
    return _find_files(path) if task is None else TargetFiles(**task.splits)


def _find_files(path: str) -> TargetFiles:
    try:
        files = expand(path)
    except PoolError as error:
        raise TargetError(error.received, _LAYOUT, error.remedy) from error
    folder = full_name(path)
    if files == [folder]:
        return TargetFiles(dev=folder)
    found: dict[str, str] = {}
    for file in files:
        name = PurePosixPath(file).name.partition(".")[0]
        if name not in _NAMES or file.rpartition("/")[0] != folder:
            continue
        if name in found:
            raise TargetError(f"both {found[name]} and {file}", f"one file of {name} rows", "remove one of them")
        found[name] = file
    if "dev" not in found and not {"align", "validate"} <= set(found):
        shown = ", ".join(PurePosixPath(file).name for file in files[:5])
        raise TargetError(f"{path}: a folder with {shown}", _LAYOUT, "add a dev file with at least 2 rows of the task")
    return TargetFiles(**found)


def split_dev(n_rows: int, seed: int) -> tuple[list[int], list[int]]:
    """Seeded halves (align, validate) of `n_rows` positions, each sorted; align gets the odd one.

    Raises TargetError where there are fewer than 2 rows.
    """
    if n_rows < 2:
        raise TargetError(
            f"{n_rows} usable dev rows", "at least 2, to split into align and validate", "add rows to the dev file"
        )
    order = np.random.default_rng(seed).permutation(n_rows)
    half = (n_rows + 1) // 2
    return sorted(order[:half].tolist()), sorted(order[half:].tolist())


def read_target_split(path: str, split: Split, seed: int) -> tuple[list[Row], list[Quarantined]]:
    """The usable rows of one split in order of its file, and the rows of that file that are not usable.

    `seed` matters only where dev is split. Of rows with one id the later ones are called `id@2` and so on. Raises
    TargetError where the target does not have the split or the split has no usable row, and as `find_target`.
    """
    if split not in get_args(Split):
        raise TargetError(f"split {split!r}", ", ".join(get_args(Split)), "ask for one of them")
    task = open_task(path)
    files = _find_files(path) if task is None else TargetFiles(**task.splits)
    file = getattr(files, split) or (None if split == "test" else files.dev)
    if file is None:
        raise TargetError(
            f"{path}: no {split} split",
            f"a file {split}.parquet, .jsonl, .csv or .arrow in the target's folder, or a task with {split} documents",
            f"put rows that are used for nothing else into {split}.jsonl beside dev",
        )
    rows, refused = _read(file) if task is None else task.read("test" if split == "test" else "dev")
    rows = _distinct(rows)
    if split != "test" and files.splits_dev:
        align, validate = split_dev(len(rows), seed)
        rows = [rows[index] for index in (align if split == "align" else validate)]
    if not rows:
        reasons = ", ".join(sorted({record.reason for record in refused}))
        raise TargetError(f"{file}: no usable row ({reasons})", "rows of the task", "correct the rows of this file")
    return rows, refused


def _distinct(rows: list[Row]) -> list[Row]:
    """Rows whose ids differ: files that were put together may each count from 0, and weights are looked up by id."""
    given = {row.id for row in rows}
    seen: set[str] = set()
    found = []
    for row in rows:
        name, number = row.id, 1
        while name in seen or (number > 1 and name in given):
            number += 1
            name = f"{row.id}@{number}"
        seen.add(name)
        found.append(row if name == row.id else replace(row, id=name))
    return found


def _read(file: str) -> tuple[list[Row], list[Quarantined]]:
    try:
        return load_rows(file)
    except PoolError as error:
        raise TargetError(error.received, error.expected, error.remedy) from error
