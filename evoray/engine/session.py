"""Start an embedded Ray and stop it, or join a cluster: nothing else in evoray depends on which."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from evoray.config import ClusterConfig, Computed
from evoray.errors import ConfigError, StageError
from evoray.models.cache import cache_dir, operators_dir

#: Logical CPUs that an embedded Ray declares for each real one: coordinators need a slot and hardly compute.
_LOGICAL_PER_REAL = 2
#: Starts of an embedded Ray that may take too long.
_START_ATTEMPTS = 4
#: What Linux calls instructions that multiply bfloat16.
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}

_Section = TypeVar("_Section", bound=Computed)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the stages need to know of the cluster."""

    workers: int  # actors that compute at the same time
    threads: int  # compute threads of each
    gpus: float  # GPUs of each
    attempts: int  # tries of one unit
    stall: float  # seconds without one more unit done, after which a stage stops
    precision: Literal["float32", "bfloat16"]  # what `auto` stands for, for all workers alike
    slots: int | None  # actors that this machine's own Ray runs at a time; None: a cluster, which may grow
    owned: bool = False  # whether the connection to Ray ends with it, and what still works there

    @property
    def keeps_processes(self) -> bool:
        """Whether processes may stay for the next stage: those of a cluster make room, those with a GPU hold it."""
        return self.slots is not None and not self.gpus

    @property
    def actor_options(self) -> dict[str, float]:
        """Resources that an actor asks Ray for."""
        return {"num_cpus": 1, "num_gpus": self.gpus}

    def check_training(self, workers: int) -> None:
        """Raise ConfigError for more than this machine has; those of a cluster, which may grow, are waited for."""
        if self.slots is not None and workers > self.slots:
            raise ConfigError(
                f"training.workers = {workers}, and this machine runs {self.slots} processes at a time",
                f"at most {self.slots} training workers",
                "lower training.workers",
            )
        if self.slots is None or not self.gpus:
            return
        import ray

        there = ray.cluster_resources().get("GPU", 0)
        if workers * self.gpus > there:
            raise ConfigError(
                f"training.workers = {workers} with {self.gpus:g} GPUs each, and {there:g} here",
                f"at most {int(there // self.gpus)} training workers",
                "lower training.workers",
            )

    def settled(self, config: _Section) -> _Section:
        """The section with `auto` decided: before it is named by fingerprint, and for every worker.

        Were each worker to decide by its own hardware, one store could hold features of two precisions.
        """
        return config.settled(self.precision, on_gpu=bool(self.gpus))


def asked_and_free(options: Mapping[str, float]) -> str:
    """What each worker asks of Ray, and what is free there now, in words."""
    import ray

    asked = ", ".join(f"{amount:g} {name.removeprefix('num_')}" for name, amount in options.items())
    free = ", ".join(f"{ray.available_resources().get(name, 0):g} {name}" for name in ("CPU", "GPU"))
    return f"each asks for {asked}, and free are {free}"


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of every worker process. Fixed threads: sums of other thread counts differ by rounding."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Large tensors go back to the system when they are freed: without it glibc keeps them, fragmented.
        "MALLOC_MMAP_THRESHOLD_": str(2 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
        # A worker that asked for no GPU sees none: its models stay on the CPU, also where others have the GPUs.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "TORCH_EXTENSIONS_DIR": str(operators_dir()),
        "NUMBA_CACHE_DIR": str(cache_dir() / "numba"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }


def limit_threads(threads: int) -> None:
    """Have torch compute with so many threads in this process, without importing it: who only reads does without."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def session(config: ClusterConfig) -> Iterator[Session]:
    """A running Ray for the time of the block. Inside an already connected process, that connection is used.

    Raises ConfigError where no cluster answers at the address.
    """
    _quieten()
    import ray

    joined = ray.is_initialized()
    address = config.address
    if not joined:
        _connect(config)
    try:
        if not joined:
            _check_supply(config)
        yield Session(
            workers=config.workers or _default_workers(config),
            threads=config.threads,
            gpus=config.gpus_per_worker,
            attempts=config.unit_attempts,
            stall=60 * config.stall_minutes,
            precision="bfloat16" if config.gpus_per_worker or computes_bfloat16() else "float32",
            slots=None if address else int(ray.cluster_resources().get("CPU", 1)),
            owned=not joined,
        )
    finally:
        if not joined:
            ray.shutdown()


def _connect(config: ClusterConfig) -> None:
    import ray

    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    environment = worker_environment(config.threads)
    if not config.address:
        # Workers inherit what Ray was started with. A runtime environment would say the same, but the workers that Ray
        # starts ahead have none, and would stand idle beside those that are started for it.
        with _environment(environment):
            _start_here(
                address="local",  # whatever RAY_ADDRESS says: without an address of ours this machine is meant
                num_cpus=max(4, _LOGICAL_PER_REAL * (os.cpu_count() or 1)),
                object_store_memory=config.object_store_mb * 2**20,
                include_dashboard=False,
                **common,
            )
        _keep_token_private()
        return
    try:
        _check_answers(config.address)
        ray.init(address=config.address, runtime_env={"env_vars": environment}, **common)
    except OSError as error:  # ConnectionError is one
        raise ConfigError(
            f"cluster.address = {config.address!r}: {error}",
            "the address of a running Ray cluster",
            "start one with `ray start --head`, or leave the address out to run on this machine",
        ) from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with these values in it, for the time of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_here(**options: Any) -> None:
    """Start an embedded Ray, which gives itself 30 seconds: a machine that is busy with other things may need more."""
    import ray

    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            with _muted_stderr():
                ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if type(error) is not Exception:  # a start that takes too long has no class of its own
                raise
            if attempt == _START_ATTEMPTS:
                raise StageError(
                    f"Ray did not start on this machine at {attempt} attempts: {error}",
                    "processors and memory that are free enough for it to start",
                    "end other work; the same command then goes on",
                ) from error


def token_file() -> Path:
    """Where Ray keeps the token of clusters that it starts, unless RAY_AUTH_TOKEN holds one."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _keep_token_private() -> None:
    """Ray writes its token so that every user of the machine can read it, and who can read it can run programs."""
    path = token_file()
    if path.is_file() and path.stat().st_uid == os.getuid():
        path.chmod(0o600)


def _check_supply(config: ClusterConfig) -> None:
    """Raise ConfigError where no node has what a worker asks for; of a cluster, which may grow, it is only said.

    Said, too, is that this machine has GPUs and none is asked for.
    """
    import ray

    wanted = config.gpus_per_worker
    most = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if wanted <= most:
        if most and not wanted and not config.address:
            remedy = f"set cluster.gpus_per_worker: 1, and cluster.workers and training.workers to at most {most:g}"
            logging.getLogger(__name__).warning("models are computed on CPUs, and %g GPUs are here: %s", most, remedy)
        return
    received = f"cluster.gpus_per_worker = {wanted:g}, and no node with more than {most:g} GPUs"
    if config.address:
        logging.getLogger(__name__).warning("%s: work waits until the cluster has grown by one", received)
        return
    raise ConfigError(
        received, "as many GPUs as this machine has", "set cluster.gpus_per_worker: 0, or cluster.address"
    )


def _check_answers(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def computes_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 in hardware; no other system than Linux is asked."""
    listed = Path("/proc/cpuinfo")
    return listed.is_file() and not _BFLOAT16_FLAGS.isdisjoint(listed.read_text(encoding="utf-8").split())


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Ray's C++ core announces its log level on stderr when it starts; a failure still raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _default_workers(config: ClusterConfig) -> int:
    """As many as have a GPU, if they are to have one; else one a CPU."""
    import ray

    there = ray.cluster_resources()
    if config.gpus_per_worker:
        return max(1, int(there.get("GPU", 0) // config.gpus_per_worker))
    if not config.address:
        return os.cpu_count() or 1
    return max(1, int(there.get("CPU", 1)) - 1)  # one slot stays free for coordinators


def _quieten() -> None:
    """Ray reports what evoray's own progress shows better; its errors still come through."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else one line of C++ warnings for each actor pool
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how soon a finished training is noticed
    # An actor of each launch that tells workers of nodes about to go: nothing of ours asks, checkpoints are by steps.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    warnings.filterwarnings("ignore", module="ray")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
