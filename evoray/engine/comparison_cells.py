"""The cells of a comparison as checked values: one trained and scored model each, and their scores as matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from evoray.errors import StageError

Floats = npt.NDArray[np.float64]

_OPEN = ConfigDict(extra="ignore")  # a cell carries more than the summary reads


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class DecilePlace:
    """Which tenth of the ranked pool a model was trained on."""

    index: int
    alignment: float | None = None


@dataclass(frozen=True, kw_only=True, config=_OPEN)
class Cell:
    """One scored model. None: unknown, or without meaning for this kind."""

    cell: str  # fingerprint
    target: str
    selector: str
    kind: Literal["untrained", "selection", "decile"]
    split: str
    losses: tuple[float | None, ...]  # of the test rows, the same in every cell of a target
    correct: tuple[float | None, ...] | None = None
    budget: str | None = None
    seed: int | None = None
    rows: int | None = None
    tokens: int | None = None
    training_tokens: int | None = None
    ids: tuple[str | int, ...] | None = None  # picks, best first
    sources: Mapping[str, int] | None = None
    distance: float | None = None
    cosine: float | None = None
    vendi: float | None = None
    vendi_target: float | None = None
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    decile: DecilePlace | None = None

    @property
    def name(self) -> str:
        """What to call it in a message."""
        parts = (self.target, self.selector, self.budget, None if self.seed is None else f"seed {self.seed}")
        return ", ".join(part for part in parts if part is not None)

    @property
    def scored(self) -> bool:
        """Whether any test row has a loss."""
        return any(loss is not None and math.isfinite(loss) for loss in self.losses)


def read_cells(documents: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Check the cells and put them in an order of their own, so that the order they came in shows nowhere.

    Of two cells of the same model the one given later stays. Raises StageError where one is of another shape, or two of
    a target were scored on different rows.
    """
    adapter = TypeAdapter(Cell)
    by_place: dict[tuple[Any, ...], Cell] = {}
    for number, document in enumerate(documents):
        try:
            cell = adapter.validate_python(dict(document))
        except ValidationError as error:
            problem = error.errors()[0]
            raise StageError(
                f"cell {number}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                "a cell as this version writes it",
                "remove this cell, and the comparison will make it again",
            ) from error
        by_place[_place(cell)] = cell
    cells = [by_place[place] for place in sorted(by_place, key=lambda place: tuple(map(_sortable, place)))]
    _check_rows(cells)
    return cells


def _place(cell: Cell) -> tuple[Any, ...]:
    index = None if cell.decile is None else cell.decile.index
    return cell.target, cell.kind, cell.selector, cell.budget, cell.seed, index


def _sortable(part: Any) -> tuple[int, int, str]:
    """None first, then numbers, then text."""
    if part is None:
        return (0, 0, "")
    return (1, part, "") if isinstance(part, int) else (2, 0, part)


def _check_rows(cells: Sequence[Cell]) -> None:
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.target, cell)
        if (len(cell.losses), cell.split) != (len(other.losses), other.split):
            raise StageError(
                f"{len(cell.losses)} {cell.split} rows in the cell {cell.name}, "
                f"{len(other.losses)} {other.split} rows in {other.name}",
                "the same rows in every cell of a target",
                "remove the cells that were scored on the other rows",
            )
        if cell.correct is not None and len(cell.correct) != len(cell.losses):
            raise StageError(
                f"{len(cell.losses)} losses and {len(cell.correct)} verdicts in the cell {cell.name}",
                "one loss and one verdict a row, null where there is none",
                "remove this cell, and the comparison will make it again",
            )


def losses_SR(cells: Sequence[Cell]) -> Floats:
    """Loss of every test row [S, R], NaN where there is none."""
    return np.array([_numbers(cell.losses) for cell in cells])


def verdicts_SR(cells: Sequence[Cell]) -> Floats:
    """Verdict of every test row [S, R] from 0 to 1, NaN where there is none."""
    return np.array([_numbers(cell.correct or (None,) * len(cell.losses)) for cell in cells])


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [value if value is not None and math.isfinite(value) else math.nan for value in values]


def mean(values: Sequence[float | int | None]) -> float | None:
    """Mean of the known finite values, or None where there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None
