"""What our Sinkhorn solver is compared with in `sinkhorn.py`. Frozen: ours may change, these may not.

Every peer gets the dense cost max(S) - S in its own array type: 1 - S but for a constant, which moves no plan and keeps
kernels exp(-C / eps) as far from underflow as it can. It is timed from that cost to potentials, whatever it sets up on
the way; POT also makes the plan, since it has no way to leave that out. Compilation, imports and a small first call are
not timed. The stopping threshold is in the peer's own norm and given by the caller, who makes it the loosest that
fulfils the common tolerance.

One solve a process, which needs no more than numpy and the peer itself: another environment's Python can run this file.

    python sinkhorn_baselines.py --contender pot_log --similarity S.npy --eps 0.05 --threshold 1e-4 [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

MAX_ITERATIONS = 2000
_TAU = 1e15
_CHECKED, _ANDERSON = 10, 5
_WARM_ROWS = 4096
_WARM_ITERATIONS = 11


@dataclass(frozen=True, kw_only=True)
class Question:
    """Uniform weights on both sides; `threshold` in the norm of the peer."""

    cost_NM: Matrix
    eps: float
    threshold: float
    max_iterations: int = MAX_ITERATIONS


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Target potentials in cost units, for the entropy KL(P || w b^T), up to a constant."""

    g_M: Array
    iterations: int


#: What is ready to be timed; its answer is read afterwards.
Ready = Callable[[], Callable[[], Answer]]


def solved_by(name: str, question: Question) -> Ready:
    """The contender of this name, ready for the question."""
    if name.startswith("pot_"):
        return _pot(name.removeprefix("pot_"), question)
    if name.startswith("ott_"):
        return _ott(name.removeprefix("ott_"), question)
    return _geomloss(question)


def _pot(name: str, question: Question) -> Ready:
    """POT's methods on torch tensors or numpy arrays; `pot_<method>_<library><bits>`, and `pot_log` on float32 tensors.

    Errors (L2, of the column marginals) are checked at iterations 1, 11, 21, ...; of `stabilized` at 1, 21, 41, ...
    Its tau of 1e3 lies below the scalings of so many rows: it would absorb them, and lose its way, in every iteration.
    """
    import ot

    method, _, kind = name.partition("_")
    library, precision = ("torch", "32") if method == "log" else (kind[:-2], kind[-2:])
    cost: Any = question.cost_NM.astype(f"float{precision}")
    rows, targets = cost.shape
    weights: list[Any] = [np.full(rows, 1.0 / rows, cost.dtype), np.full(targets, 1.0 / targets, cost.dtype)]
    if library == "torch":
        import torch

        cost, weights = torch.from_numpy(cost), [torch.from_numpy(part) for part in weights]
    call, key = {
        "log": (ot.bregman.sinkhorn_log, "log_v"),
        "sinkhorn": (ot.bregman.sinkhorn_knopp, "v"),
        "stabilized": (ot.bregman.sinkhorn_stabilized, "logv"),
    }[method]

    settings = {"numItermax": question.max_iterations, "stopThr": question.threshold, "log": True}
    settings |= {"tau": _TAU} if method == "stabilized" else {}

    def run() -> Callable[[], Answer]:
        _, log = call(*weights, cost, question.eps, **settings)

        def answer() -> Answer:
            v_M = np.asarray(log[key], dtype=np.float64)
            g_M = question.eps * ((np.log(v_M) if key == "v" else v_M) + np.log(targets))
            return Answer(g_M=g_M, iterations=int(log.get("niter", log.get("n_iter", 0))) + 1)

        return answer

    return run


def _ott(name: str, question: Question) -> Ready:
    """OTT-JAX, compiled ahead. Its error is the L1 error of the column marginals, checked at every tenth iteration.

    `lse` and `kernel`: its two modes on a cost; `given`: kernel mode on a kernel that is made beforehand (and timed),
    which spares it to make the kernel again in every iteration. `_momentum` (adaptive, from the second check on) and
    `_anderson` are its accelerations.
    """
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]
    from ott.geometry import geometry  # type: ignore[import-not-found]
    from ott.problems.linear import linear_problem  # type: ignore[import-not-found]
    from ott.solvers.linear import acceleration, sinkhorn  # type: ignore[import-not-found]

    name, _, aid = name.partition("_")
    solver = sinkhorn.Sinkhorn(
        lse_mode=name == "lse",
        threshold=question.threshold,
        max_iterations=question.max_iterations,
        momentum=acceleration.Momentum(start=2 * _CHECKED) if aid == "momentum" else None,
        anderson=acceleration.AndersonAcceleration(memory=_ANDERSON) if aid == "anderson" else None,
        inner_iterations=_CHECKED,
    )

    def solve(matrix: Any) -> tuple[Any, Any]:
        kind = "kernel_matrix" if name == "given" else "cost_matrix"
        found = solver(linear_problem.LinearProblem(geometry.Geometry(**{kind: matrix}, epsilon=question.eps)))
        return found.g, found.n_iters

    cost = jnp.asarray(question.cost_NM)
    kernel = jax.jit(lambda matrix: jnp.exp(matrix * (-1.0 / question.eps))).lower(cost).compile()
    compiled = jax.jit(solve).lower(cost).compile()

    def run() -> Callable[[], Answer]:
        found = jax.block_until_ready(compiled(kernel(cost) if name == "given" else cost))
        targets = question.cost_NM.shape[1]
        return lambda: Answer(
            g_M=np.asarray(found[0], dtype=np.float64) + question.eps * np.log(targets), iterations=int(found[1])
        )

    return run


def _geomloss(question: Question) -> Ready:
    """GeomLoss on a dense cost: symmetric annealed updates in the log domain.

    It has no tolerance: the threshold is the number of iterations.
    """
    import torch
    from geomloss import ot  # type: ignore[import-not-found]

    cost = torch.from_numpy(question.cost_NM)
    rows, targets = cost.shape
    weights = {"a": torch.full((rows,), 1.0 / rows), "b": torch.full((targets,), 1.0 / targets)}
    iterations = max(1, int(min(question.threshold, question.max_iterations)))

    def run() -> Callable[[], Answer]:
        found = ot.solve(cost, reg=question.eps, max_iter=iterations, **weights).potential_b
        return lambda: Answer(g_M=np.asarray(found, dtype=np.float64), iterations=iterations)

    return run


def measure(ready: Ready) -> tuple[Answer, dict[str, Any]]:
    """Time one solve, and the peak of this process's memory above what it held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory_now("VmRSS")
    began = time.perf_counter()
    answer = ready()
    seconds = time.perf_counter() - began
    peak = memory_now("VmHWM")
    found = answer()
    facts = {"seconds": seconds, "peak_bytes": peak, "added_bytes": peak - before}
    return found, facts | {"g_M": found.g_M.tolist(), "iterations": found.iterations}


def memory_now(name: str) -> int:
    """A line of this process's memory status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def limit_threads(threads: int) -> None:
    """Keep this process on that many processors; before any library starts its threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main() -> None:
    """One solve; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", required=True)
    parser.add_argument("--similarity", type=Path, required=True)
    parser.add_argument("--eps", type=float, required=True)
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    limit_threads(options.threads)
    warnings.filterwarnings("ignore")
    similarity_NM = np.load(options.similarity)
    cost_NM = np.subtract(similarity_NM.max(), similarity_NM, out=similarity_NM)
    small = Question(
        cost_NM=cost_NM[:_WARM_ROWS].copy(), eps=options.eps, threshold=1e-9, max_iterations=_WARM_ITERATIONS
    )
    solved_by(options.contender, small)()
    _, facts = measure(
        solved_by(options.contender, Question(cost_NM=cost_NM, eps=options.eps, threshold=options.threshold))
    )
    print(json.dumps(facts | {"versions": _versions()}))


def _versions() -> dict[str, str]:
    found = {}
    for package in ("POT", "torch", "numpy", "jax", "ott-jax", "geomloss"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
