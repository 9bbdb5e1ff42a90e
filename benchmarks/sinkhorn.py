"""How long does the transport solver take beside other libraries, and how near does it come to the memory's bandwidth?

Seeded features (see `seeded_features.py`), uniform weights, cost 1 - S with S given to all, eps 0.05 and 0.01, L1 error
of the column marginals 1e-3 with exact rows, no warm start. Peers: `sinkhorn_baselines.py`. Every solve runs in a
process of its own on the same processors; in a repeat each contender has its turn, no one always first, and medians of
the repeats' ratios are compared. A first, uncounted round finds each peer's loosest stopping threshold, and leaves of
POT's and OTT-JAX's variants those that came near the fastest. Every answer is verified in float64: its marginal error,
and its objective against ours. The last line printed is one JSON object: bare keys are the worse of the two eps.

    python benchmarks/sinkhorn.py [--rows 200000] [--targets 256] [--dim 512] [--repeats 5] [--only speed ...]
        [--ott-python PATH] [--geomloss-python PATH]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from seeded_features import BLOCK_ROWS, SeededFeatures, block_lengths
from sinkhorn_baselines import Answer, limit_threads, measure
from sinkhorn_measures import bandwidth, cpu_name, local_shards, scaling, uniform

from evoray.alignment.sinkhorn import solve

Array = npt.NDArray[np.float64]

EPS = {"_eps005": 0.05, "_eps001": 0.01}
TOLERANCE = 1e-3
#: Verified in float64, a float32 solver's error may exceed its own count of it by rounding.
ROUNDING = 1e-3
OBJECTIVE_TOLERANCE = 1e-4
#: Variants of a library that took up to this many times its fastest in the first round are timed in all repeats.
NEAR = 1.25
POT = (
    "pot_sinkhorn_torch32",
    "pot_sinkhorn_torch64",
    "pot_sinkhorn_numpy32",
    "pot_sinkhorn_numpy64",
    "pot_stabilized_torch32",
    "pot_stabilized_torch64",
)
OTT = tuple(f"ott_{mode}{aid}" for mode in ("lse", "kernel", "given") for aid in ("", "_momentum", "_anderson"))
PARTS = ("speed", "bandwidth", "scaling")
_GEOMLOSS_ITERATIONS = (32, 64)


def main() -> None:
    """Run the parts asked for, print the JSON object."""
    options = _options()
    limit_threads(options.threads)
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(_ours(options)))
        return
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sinkhorn-") as name:
        options.folder = Path(name)
        facts |= _write_problem(options)
        if "speed" in options.only:
            facts |= speed(options)
        if "bandwidth" in options.only:
            facts |= bandwidth(options.folder, EPS["_eps001"])
        if "scaling" in options.only:
            facts |= scaling(options.folder, EPS["_eps001"], options.repeats)
    facts |= {"threads": options.threads, "cpu": cpu_name(), "torch": torch.__version__}
    print(json.dumps(facts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--targets", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ott-python", type=Path, help="Python of an environment with ott-jax")
    parser.add_argument("--geomloss-python", type=Path, help="Python of an environment with geomloss")
    parser.add_argument("--child", choices=["ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--eps", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _write_problem(options: argparse.Namespace) -> dict[str, Any]:
    """Features, target and similarity as memory maps in the folder; what they look like."""
    made = SeededFeatures(options.dim)
    target_MD = made.target(options.targets)
    shape = {"features": (options.rows, options.dim), "similarity": (options.rows, options.targets)}
    maps = {
        name: np.lib.format.open_memmap(options.folder / f"{name}.npy", "w+", np.float32, size)
        for name, size in shape.items()
    }
    moments = np.zeros(2)
    for block, rows in enumerate(block_lengths(options.rows)):
        span = slice(block * BLOCK_ROWS, block * BLOCK_ROWS + rows)
        maps["features"][span] = made.block(block, rows)
        maps["similarity"][span] = maps["features"][span] @ target_MD.T
        wide = maps["similarity"][span].astype(np.float64)
        moments += wide.sum(), (wide**2).sum()
    np.save(options.folder / "target.npy", target_MD)
    mean, square = moments / maps["similarity"].size
    sizes = {"rows": options.rows, "targets": options.targets, "dim": options.dim, "repeats": options.repeats}
    sample = np.quantile(maps["similarity"][:: max(1, options.rows // 2000)], [0.001, 0.5, 0.999])
    return sizes | {
        "similarity_mean": float(mean),
        "similarity_std": float(np.sqrt(square - mean**2)),
        "similarity_quantiles": sample.round(3).tolist(),
    }


def _ours(options: argparse.Namespace) -> dict[str, Any]:
    """One solve of ours in this process."""
    similarity_NM = np.load(options.folder / "similarity.npy", mmap_mode="r")
    features_ND = np.load(options.folder / "features.npy", mmap_mode="r")
    target_MD = np.load(options.folder / "target.npy")
    b_M = uniform(len(target_MD))

    def ready(rows: int) -> Any:
        shards = local_shards(features_ND[:rows], similarity_NM[:rows], target_MD)

        def run() -> Any:
            found = solve(shards, "pool", b_M, eps=options.eps, tolerance=TOLERANCE)
            return lambda: Answer(g_M=found.g_M, iterations=found.iterations)

        return run

    ready(BLOCK_ROWS)()
    _, facts = measure(ready(len(features_ND)))
    return facts


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of times at both eps, and of each contender the seconds, iterations, memory, error and objective."""
    facts: dict[str, Any] = {"absent": _absent(options)}
    for suffix, eps in EPS.items():
        facts |= {f"{key}{suffix}": value for key, value in _Race(options, eps).run().items()}
    for key in ("speedup_over_pot_log", "speedup_over_pot_best", "speedup_over_ott"):
        found = [facts[key + suffix] for suffix in EPS]
        facts[key] = None if None in found else min(found)
    facts["objective_difference"] = max(facts["objective_difference" + suffix] for suffix in EPS)
    return facts


def _absent(options: argparse.Namespace) -> dict[str, str]:
    missing = {"ott": options.ott_python, "geomloss": options.geomloss_python}
    return {name: f"no --{name}-python" for name, path in missing.items() if path is None}


class _Race:
    """All contenders at one eps."""

    def __init__(self, options: argparse.Namespace, eps: float) -> None:
        self.options, self.eps = options, eps
        self.similarity_NM = np.load(options.folder / "similarity.npy", mmap_mode="r")
        self.thresholds: dict[str, float] = {}
        self.refused: dict[str, str] = {}
        self.first: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, list[dict[str, Any]]] = {}

    def run(self) -> dict[str, Any]:
        """The first round, the repeats, the ratios."""
        self.thresholds = {"ours": 0.0} | self._pot_thresholds()
        if self.options.ott_python:
            self.thresholds |= dict.fromkeys(OTT, TOLERANCE)
        for name in self.thresholds:
            self._keep(name, self._solve(name, self.thresholds[name]), self.first)
        if self.options.geomloss_python:
            self._geomloss()
        names = ["ours", "pot_log", *self._near(POT), *self._near(OTT)]
        names = [name for name in names if name in self.first]
        for repeat in range(self.options.repeats):
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                found = self._solve(name, self.thresholds[name])
                self.runs.setdefault(name, []).append(found)
        return self._facts()

    def _near(self, variants: Sequence[str]) -> list[str]:
        seconds = {name: self.first[name]["seconds"] for name in variants if name in self.first}
        return [name for name, taken in seconds.items() if taken <= NEAR * min(seconds.values())]

    def _solve(self, name: str, threshold: float) -> dict[str, Any]:
        folder, threads = self.options.folder, str(self.options.threads)
        if name.startswith("ours"):
            command = [sys.executable, __file__, "--child", name, "--folder", str(folder)]
        else:
            pythons = {"ott": self.options.ott_python, "geomloss": self.options.geomloss_python}
            python = pythons.get(name.partition("_")[0], sys.executable)
            script = str(Path(__file__).with_name("sinkhorn_baselines.py"))
            command = [str(python), script, "--contender", name, "--similarity", str(folder / "similarity.npy")]
            command += ["--threshold", repr(threshold)]
        done = subprocess.run(
            [*command, "--eps", str(self.eps), "--threads", threads], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            return {"refusal": f"the process ended with {done.returncode}"}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        error, objective = verified(self.similarity_NM, np.array(found.pop("g_M"), dtype=np.float64), self.eps)
        if not error <= TOLERANCE * (1.0 + ROUNDING):
            found["refusal"] = f"marginal error {error:.3g} after {found['iterations']} iterations"
        print(
            f"{name} at eps {self.eps}: {found['seconds']:.2f} s, {found['iterations']} iterations, error {error:.2e}",
            file=sys.stderr,
        )
        return found | {"marginal_error": error, "objective": objective}

    def _keep(self, name: str, found: dict[str, Any], where: dict[str, dict[str, Any]]) -> None:
        if "refusal" not in found and "ours" in where:
            difference = abs(found["objective"] / where["ours"]["objective"] - 1.0)
            if difference > OBJECTIVE_TOLERANCE:
                found["refusal"] = f"objective off by {difference:.2g}"
        if "refusal" in found:
            self.refused[name] = found["refusal"]
        else:
            where[name] = found

    def _geomloss(self) -> None:
        """GeomLoss with the fewest iterations that reach the tolerance; timed once, for reference."""
        for iterations in _GEOMLOSS_ITERATIONS:
            self.refused.pop("geomloss", None)
            self._keep("geomloss", self._solve("geomloss", iterations), self.first)
            if "geomloss" in self.first:
                return

    def _pot_thresholds(self) -> dict[str, float]:
        """POT stops by the L2 error, at certain iterations: what stops it where the L1 error is first in tolerance.

        Half way, as a ratio, to the check before: float32 rounding of the peer's own error must not make it go on.
        """
        errors = _error_course(self.similarity_NM, self.eps)
        found = {}
        for name in ("pot_log", *POT):
            checked = errors[:: 20 if "stabilized" in name else 10]
            place = next(place for place, (l1, _) in enumerate(checked) if l1 <= TOLERANCE)
            found[name] = float(np.sqrt(checked[place][1] * (checked[place - 1][1] if place else 1.0)))
        return found

    def _facts(self) -> dict[str, Any]:
        ours = [run["seconds"] for run in self.runs["ours"]]
        facts: dict[str, Any] = {"refused": self.refused, "first_round": _brief(self.first)}
        for name, runs in self.runs.items():
            for run in runs:
                if "refusal" in run:
                    raise SystemExit(f"{name} at eps {self.eps}: {run['refusal']}")
            facts[name] = {"seconds": median(run["seconds"] for run in runs)} | {
                key: runs[0][key] for key in ("iterations", "marginal_error", "objective", "peak_bytes", "added_bytes")
            }
        for key, variants in (("pot_log", ("pot_log",)), ("pot_best", POT), ("ott", OTT)):
            raced = [name for name in variants if name in self.runs]
            best = min(raced, key=lambda name: facts[name]["seconds"], default=None)
            facts[f"fastest_{key}"] = best
            facts[f"speedup_over_{key}"] = None if best is None else _ratio(self.runs[best], ours)
        objective = facts["ours"]["objective"]
        facts["objective_difference"] = max(
            abs(found["objective"] / objective - 1.0)
            for found in [*self.first.values(), *itertools.chain(*self.runs.values())]
        )
        facts["versions"] = {k: v for found in self.first.values() for k, v in found.get("versions", {}).items()}
        return facts


def _brief(first: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: [round(found["seconds"], 3), found["iterations"]] for name, found in first.items()}


def _ratio(runs: Sequence[dict[str, Any]], ours: Sequence[float]) -> float:
    return median(float(run["seconds"]) / own for run, own in zip(runs, ours, strict=True))


def verified(similarity_NM: npt.NDArray[np.float32], g_M: Array, eps: float) -> tuple[float, float]:
    """L1 error of the column marginals after the rows are made exact at g, and the dual objective; in float64."""
    rows, targets = similarity_NM.shape
    g = torch.from_numpy(g_M - g_M.mean())
    column_M, total = torch.zeros(targets, dtype=torch.float64), 0.0
    for start in range(0, rows, BLOCK_ROWS):
        cost_NM = 1.0 - torch.from_numpy(similarity_NM[start : start + BLOCK_ROWS].astype(np.float64))
        scores_NM = (g - cost_NM) / eps - float(np.log(targets))
        lse_N = torch.logsumexp(scores_NM, dim=1)
        column_M += torch.exp(scores_NM - lse_N[:, None]).sum(dim=0) / rows
        total -= eps * float(lse_N.sum()) / rows
    return float((column_M - 1.0 / targets).abs().sum()), total + float(g.mean())


def _error_course(similarity_NM: npt.NDArray[np.float32], eps: float) -> list[tuple[float, float]]:
    """(L1, L2) errors of the column marginals after each of POT's iterations, until the rarest check sees them small.

    All of its methods alternate from a constant row scaling, columns first.
    """
    rows, targets = similarity_NM.shape
    kernel_NM = torch.from_numpy(similarity_NM - similarity_NM.max()).double().div_(eps).exp_()
    u_N = torch.full((rows,), 1.0 / rows, dtype=torch.float64)
    errors: list[tuple[float, float]] = []
    column_M = kernel_NM.T @ u_N
    while not errors or errors[-1][0] > TOLERANCE or len(errors) % 20 != 1:
        v_M = 1.0 / targets / column_M
        u_N = 1.0 / rows / (kernel_NM @ v_M)
        column_M = kernel_NM.T @ u_N
        off_M = v_M * column_M - 1.0 / targets
        errors.append((float(off_M.abs().sum()), float(off_M.norm())))
    return errors


if __name__ == "__main__":
    main()
