"""Which round a round goes on from, and what `best/` holds: on the records and files of a run, without the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evoray.config_file import build_config
from evoray.engine.arms import best_round, keep_best, kept_rounds
from evoray.engine.context import Context
from evoray.engine.events import Events
from evoray.engine.site import Site
from evoray.storage import Storage

LOSSES = {0: 5.0, 1: 4.0, 2: 4.5, 3: 3.0}
ROLLED_BACK = 2


@pytest.fixture
def context(tmp_path: Path) -> Context:
    storage = Storage(tmp_path)
    for number, loss in LOSSES.items():
        rolled_back = number == ROLLED_BACK
        record = {"loss": loss, "rolled_back": rolled_back, "against_best": {"round": 1 if rolled_back else 0}}
        storage.write_json(f"rounds/{number:04d}/evaluated.json", record)
        storage.write(f"rounds/{number:04d}/adapter/adapter_model.safetensors", f"weights {number}".encode())
    config = build_config({"pool": "-", "target": "-", "model": "some/model", "rounds": 3})
    nothing: Any = None
    site = Site(storage=storage, session=nothing, events=Events(storage))
    return Context(
        config=config, storage=storage, site=site, pool=nothing, align=nothing, validate=nothing, model_identity="",
        proxy=None,
    )  # fmt: skip


def after(context: Context, rounds: int) -> Context:
    """The same run with this many rounds."""
    return replace(context, config=context.config.model_copy(update={"rounds": rounds}))


def test_a_round_goes_on_from_the_one_before_unless_that_was_rolled_back(context: Context) -> None:
    assert [context.parent(number) for number in (1, 2, 3, 4)] == [0, 1, 1, 3]


def test_rows_of_a_rolled_back_round_are_not_trained_on_again(context: Context) -> None:
    assert kept_rounds(context, 4) == [1, 3]


def test_the_best_round_has_the_lowest_loss_up_to_there(context: Context) -> None:
    assert [best_round(context, through) for through in range(4)] == [0, 1, 1, 3]


def test_best_holds_the_weights_of_the_best_round_after_every_round(context: Context, tmp_path: Path) -> None:
    for through, best in ((1, 1), (2, 1), (3, 3)):
        keep_best(after(context, through))
        assert (tmp_path / "best" / "adapter_model.safetensors").read_text() == f"weights {best}"
        record = json.loads((tmp_path / "best" / "best.json").read_text())
        assert record == {"round": best, "model": "some/model", "loss": LOSSES[best]}


def test_best_is_mended_where_it_was_cut_off(context: Context, tmp_path: Path) -> None:
    keep_best(after(context, 1))
    (tmp_path / "best" / "best.json").unlink()
    (tmp_path / "best" / "adapter_model.safetensors").write_text("half of")
    keep_best(after(context, 1))
    assert (tmp_path / "best" / "adapter_model.safetensors").read_text() == "weights 1"


def test_best_takes_nothing_back_where_later_rounds_are_done(context: Context, tmp_path: Path) -> None:
    keep_best(context)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["round"] == 3


def test_best_is_empty_while_the_untrained_model_stands(context: Context, tmp_path: Path) -> None:
    keep_best(after(context, 0))
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["best.json"]
