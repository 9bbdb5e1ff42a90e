"""Curves of a training, where people look at them: TensorBoard always, Weights & Biases and MLflow where they are set.

The driver writes them all: workers need neither the packages nor the keys, and one run has one page however often it
was interrupted. A tracker that fails is left out from then on, and said so: it never stops a training.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from evoray.models.folder import Folder
from evoray.storage import Storage, scratch_folder

Values = Mapping[str, float]
#: Environment by which each of the trackers elsewhere is set.
_SETTINGS = {"wandb": ("WANDB_API_KEY", "WANDB_MODE"), "mlflow": ("MLFLOW_TRACKING_URI",)}
#: Takes a series, a step and what was measured there.
Tracker = Callable[[str, int, Values], None]

TENSORBOARD = "tensorboard"  # folder of a run directory
_BOARD, _WANDB, _MLFLOW = "TensorBoard", "Weights & Biases", "MLflow"


class Tracking:
    """The trackers that are in use."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._trackers: dict[str, Tracker] = {}
        self._closers: list[tuple[str, Callable[[], object]]] = []

    def add(self, name: str, opened: Callable[[], Tracker]) -> None:
        """Open a tracker; one that cannot be opened is a problem, and no error."""
        try:
            self._trackers[name] = opened()
        except Exception as error:  # noqa: BLE001 - whatever a tracking service raises
            self._drop(name, error)

    def scalars(self, series: str, step: int, values: Values) -> None:
        """Note values of one step."""
        for name, tracker in list(self._trackers.items()):
            try:
                tracker(series, step, values)
            except Exception as error:  # noqa: BLE001 - whatever a tracking service raises
                self._drop(name, error)

    def at_end(self, name: str, close: Callable[[], object]) -> None:
        """What is to be done at the end; the last one first."""
        self._closers.append((name, close))

    def close(self) -> None:
        """Do what is to be done at the end."""
        for name, close in reversed(self._closers):
            try:
                close()
            except Exception as error:  # noqa: BLE001 - whatever a tracking service raises
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        self.problems.append(f"no curves to {name}: {type(error).__name__}: {error}")


@contextmanager
def tracking(storage: Storage, resumed: Mapping[str, int]) -> Iterator[Tracking]:
    """Trackers for the time of the block. `resumed`: the step that each series goes on from (0: a new one)."""
    track = Tracking()
    with scratch_folder() as scratch:
        track.add(_BOARD, lambda: _tensorboard(storage, resumed, track, scratch))
        if _set("wandb"):
            track.add(_WANDB, lambda: _wandb(storage, track, scratch))
        if _set("mlflow"):
            track.add(_MLFLOW, lambda: _mlflow(storage, track))
        try:
            yield track
        finally:
            track.close()


def folder_of(series: str) -> str:
    """The name of the folder of one series."""
    return series.replace(" ", "-")


def _set(tracker: str) -> bool:
    return any(os.environ.get(name) for name in _SETTINGS[tracker])


@contextmanager
def untracked() -> Iterator[None]:
    """No tracker elsewhere for the time of the block: what is trained in it is no result."""
    hidden = {name: os.environ.pop(name) for names in _SETTINGS.values() for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _run_id(storage: Storage) -> str:
    """One id for a run directory, however often it is opened."""
    return hashlib.sha256(storage.uri.encode()).hexdigest()[:16]


def _tensorboard(storage: Storage, resumed: Mapping[str, int], track: Tracking, scratch: Path) -> Tracker:
    from tensorboardX import SummaryWriter

    root = Path(storage.location(TENSORBOARD)) if storage.is_local else scratch
    writers = {}
    for series, step in resumed.items():
        folder = root / folder_of(series)
        purge = step + 1 if step or folder.is_dir() else None  # what came after the checkpoint is written again
        unique = f".{time.time_ns()}"  # files are named by the second: two starts within one would be one file
        writers[series] = SummaryWriter(str(folder), purge_step=purge, filename_suffix=unique)
        if not storage.is_local:
            prefix = f"{TENSORBOARD}/{folder.name}"
            track.at_end(_BOARD, partial(Folder(storage=storage, prefix=prefix).upload, folder))
        track.at_end(_BOARD, writers[series].close)

    def write(series: str, step: int, values: Values) -> None:
        for name, value in values.items():
            writers[series].add_scalar(name, value, step)
        writers[series].flush()

    return write


def _wandb(storage: Storage, track: Tracking, scratch: Path) -> Tracker:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "evoray"),
        name=os.environ.get("WANDB_NAME", storage.uri.rpartition("/")[2]),
        id=_run_id(storage),
        resume="allow",
        dir=os.environ.get("WANDB_DIR", str(scratch)),
    )
    track.at_end(_WANDB, run.finish)

    def write(series: str, step: int, values: Values) -> None:
        run.log({f"{series}/step": step, **{f"{series}/{name}": value for name, value in values.items()}})

    return write


def _mlflow(storage: Storage, track: Tracking) -> Tracker:
    from mlflow import MlflowClient
    from mlflow.entities import RunStatus

    client = MlflowClient()
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "evoray")
    known = client.get_experiment_by_name(title)
    experiment = client.create_experiment(title) if known is None else known.experiment_id
    mine = _run_id(storage)
    found = client.search_runs([experiment], filter_string=f"tags.`evoray.run` = '{mine}'")
    run = found[0] if found else client.create_run(experiment, tags={"evoray.run": mine, "evoray.out": storage.uri})
    client.update_run(run.info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    track.at_end(_MLFLOW, partial(client.set_terminated, run.info.run_id))

    def write(series: str, step: int, values: Values) -> None:
        for name, value in values.items():
            client.log_metric(run.info.run_id, f"{series}/{name}", value, step=step)

    return write
