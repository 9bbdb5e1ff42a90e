"""`evoray submit`: hand a run to a cluster as a job, and see it through."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evoray.config_file import load_config
from evoray.engine.rundir import check_outlives_job
from evoray.storage import scratch_folder
from evoray.submission_attempts import Submission
from evoray.submission_client import RayCluster
from evoray.submission_package import Package, keys_of


def submit(
    config: Path,
    address: str,
    overrides: Sequence[str] = (),
    *,
    out: str | None = None,
    follow: bool = True,
    retries: int = 3,
    again: str,
    shown: Mapping[str, str],
    tell: Callable[[str], None],
    write: Callable[[str], None],
) -> None:
    """Submit the run of a config to the cluster whose jobs address is given.

    follow: pass its output on, and submit it again, at most `retries` times, where it was lost. again: the command
    that does all this once more. shown: variables of the environment that say how much the run shows. tell: takes lines
    for a person; write: the run's output. Raises ConfigError for wrong input, an address where no cluster answers and a
    token that it refuses; the rest as `Submission.run`.
    """
    settings = load_config(config, overrides, out=out)
    for place in (settings.out, settings.store):
        if place is not None:
            check_outlives_job(place)
    package = Package.of(config, overrides, Path.cwd())
    package.settings["out"] = settings.out
    keys = keys_of(settings, os.environ)
    cluster = RayCluster(address)
    for name in keys:
        tell(f"{name} travels with the job")
    with scratch_folder() as folder:
        package.write(folder)
        Submission(
            cluster=cluster,
            folder=folder,
            out=settings.out.rstrip("/"),
            keys=keys,
            retries=retries,
            again=again,
            shown=shown,
            tell=tell,
            write=write,
        ).run(follow)
