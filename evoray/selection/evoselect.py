"""EvoSelect: the K candidates whose weighted features are transported most cheaply to the target, kept diverse.

J(w) = OT_eps(w, b) + lambda_eff R(w) over the capped simplex, by mirror descent (arXiv 2604.26170; its eps,
lambda, eta and steps are unpublished, ours are in `EvoSelectParams`). lambda and r = eps / std(C) are chosen on
held-out rows of the target: of every point of a short path, the one whose picks, taken uniformly, have the least
transport cost to those rows at one fixed eps. Every point starts from uniform weights and the same converged
potentials, so that choosing a point equals running with its values fixed.

What aligns best is not always what trains best. With `trials` the result also has those choices of the path that differ
most from it, among them that of a large r, where the plan is blurred and rows rank by their mean similarity: whoever
can train judges them by the loss on held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from evoray.alignment.reduction import Array
from evoray.alignment.sinkhorn import Potentials, solve
from evoray.diversity.energies import Energy, Memory, make_energy, moment_of, vendi_score
from evoray.diversity.projection import project_rows, projection
from evoray.errors import SelectionError
from evoray.selection.descent import POOL, Descent, Task, descend
from evoray.selection.evoselect_records import Certificate, EvoSelectParams, EvoSelectResult, PathPoint
from evoray.selection.journal import Journal, NoJournal
from evoray.selection.picked import PICKED, pick_records, remember, solve_picked
from evoray.selection.picks import Pick
from evoray.selection.protocol import Shards, usable_rows
from evoray.selection.ranking import with_nearest
from evoray.selection.shares import Bounds
from evoray.selection.weights import target_weights

__all__ = ["EvoSelectParams", "EvoSelectResult", "evoselect"]

Features = npt.NDArray[np.floating]
#: A point of the path, where its descent ended, and the potentials that it started from.
_Tried = tuple[PathPoint, Descent, Potentials]

#: A cost matrix without spread counts as this much spread: eps stays above the rounding of fp32 features.
MIN_COST_STD = 1e-3
#: eps / std(C) at which rows rank by their mean similarity.
MEAN_R = 4.0
#: Choices that share more than this part of their rows are not worth a training each.
ALIKE = 0.95
#: L1 marginal error to which the picked set is solved: for the held-out cost, and for the certificate.
VALIDATE_TOLERANCE = 1e-4
CERTIFICATE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class _Setting:
    task: Task
    params: EvoSelectParams
    target_MD: Array
    validate_MD: Array | None
    map_DP: npt.NDArray[np.float32] | None
    cost_std: float
    start_g_M: Array | None
    journal: Journal

    @property
    def shards(self) -> Shards:
        return self.task.shards


def evoselect(
    shards: Shards,
    target_MD: Features,
    weights_M: Array | None,
    validate_MD: Features | None,
    params: EvoSelectParams,
    *,
    progress: Callable[[int, int], None] | None = None,
    memory: Memory | None = None,
    start_g_M: Array | None = None,
    journal: Journal | None = None,
) -> EvoSelectResult:
    """Select `params.k` usable rows of the shards for a target.

    `target_MD`, `validate_MD`: unit rows. `weights_M`: positive target weights, scaled to sum 1; None: uniform.
    `progress(done, total)` is called after each step. `memory`: what earlier rounds used, in the diversity space.
    `start_g_M`: fp64 potentials of these target rows (cost units) that the first solve of each r starts from; those of
    an earlier result's own start are nearest. `journal`: where an interrupted call is gone on with.
    Raises SelectionError where k exceeds the usable rows, weights are not positive, shares cannot be met, there is not
    one starting potential a target row, or a path needs held-out rows that are not given; SolverError where numbers
    stop being finite.
    """
    b_M = target_weights(weights_M, len(target_MD))
    _check_start(start_g_M, len(b_M))
    usable = usable_rows(shards)
    if params.k > usable:
        raise SelectionError(f"k = {params.k} of {usable} usable rows", "k <= usable rows", "lower k or add rows")
    target = np.asarray(target_MD, dtype=np.float64)
    bounds = None if params.shares is None else Bounds.of(params.shares, shards, params.k)
    shards.call("open", POOL, target, b_M, -float(np.log(usable)))
    if bounds is not None:
        shards.call("divide", POOL, bounds.sources)
    random_map = projection(target.shape[1], params.diversity_dim, params.diversity_seed)
    map_DP = None if random_map is None else random_map.numpy()
    shards.call("prepare_diversity", POOL, map_DP)
    energy = _energy(params, project_rows(torch.from_numpy(target), random_map), b_M)
    setting = _Setting(
        task=Task(shards=shards, weights_M=b_M, energy=energy, memory=memory, options=params.descent(), bounds=bounds),
        params=params,
        target_MD=target,
        validate_MD=None if validate_MD is None else np.asarray(validate_MD, dtype=np.float64),
        map_DP=map_DP,
        cost_std=cost_std(shards),
        start_g_M=start_g_M,
        journal=journal or NoJournal(),
    )
    path = _walk(setting, progress)
    shards.call("close", POOL)
    # The best by held-out cost to 1e-6, lambda, place in the path.
    best = min(path, key=lambda tried: (round(tried[0].validate_cost or 0.0, 6), tried[0].lam))
    points = tuple(tried for tried, *_ in path)
    first, *others = [_finish(setting, tried, points, usable) for tried in _to_try(best, path, params.trials)]
    return replace(first, others=tuple(others))


def _to_try(best: _Tried, path: list[_Tried], trials: int) -> list[_Tried]:
    """The best by alignment, then each time what is least like all of them; of equals the first of the path."""
    chosen = [best]
    while len(chosen) < trials:
        shared = {place: max(_overlap(one, other) for other in chosen) for place, one in enumerate(path)}
        place = min(shared, key=lambda place: (shared[place], place))
        if shared[place] > ALIKE:
            break
        chosen.append(path[place])
    return chosen


def _overlap(one: _Tried, other: _Tried) -> float:
    """Part of the picks that two choices share."""
    ids, others = ({row_id for _, _, row_id, *_ in tried[1].top} for tried in (one, other))
    return len(ids & others) / len(ids)


def _walk(setting: _Setting, progress: Callable[[int, int], None] | None) -> list[_Tried]:
    """Descend at every point of the path."""
    params = setting.params
    lams = sorted(set(params.lambda_path)) if params.lam == "auto" else [params.lam]
    lams = [0.0] if params.energy == "none" else lams
    ratios = params.r_path if params.r == "auto" else (params.r,)
    scales: list[tuple[float | None, float, list[float]]] = [(r, r * setting.cost_std, lams) for r in ratios]
    if params.trials > 1 and params.r == "auto":
        scales.append((MEAN_R, MEAN_R * setting.cost_std, [0.0] if params.lam == "auto" else lams))
    if params.eps is not None:
        scales = [(None, params.eps, lams)]
    points = sum(len(some) for *_, some in scales)
    if points > 1 and setting.validate_MD is None:
        raise SelectionError(
            "lambda or r 'auto' without held-out target rows",
            "held-out rows to choose them by",
            "give the target a validate split, or set lambda and r",
        )
    total, done = points * params.steps, 0

    def step_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    found: list[_Tried] = []
    for r, eps, some in scales:
        start = _start(setting, eps)
        for lam in some:
            found.append((*_tried(setting, lam, r, start, len(found), step_done), start))
    return found


def _tried(
    setting: _Setting, lam: float, r: float | None, start: Potentials, place: int, step_done: Callable[[], None]
) -> tuple[PathPoint, Descent]:
    """One point of the path, from the journal where it is finished there."""
    known = setting.journal.finished(place)
    # More rows may be wanted now than were ranked then: a budget of tokens asks again until they suffice.
    if known is not None and len(known[1].top) + len(known[1].more) >= setting.task.options.rows:
        for _ in range(setting.params.steps):
            step_done()
        return known
    descent = descend(setting.task, lam, start, step_done, setting.journal, place)
    point = _point(setting, lam, r, descent)
    setting.journal.finish(place, point, descent)
    return point, descent


def _start(setting: _Setting, eps: float) -> Potentials:
    """Converged potentials at uniform weights: from those given, which are near their end, or annealed from std(C)."""
    params = setting.params
    setting.shards.call("reset", POOL)
    return solve(
        setting.shards,
        POOL,
        setting.task.weights_M,
        eps=eps,
        rho=params.rho,
        g_M=setting.start_g_M,
        anneal_from=setting.cost_std if setting.start_g_M is None else None,
        tolerance=params.tolerance,
        max_iterations=params.max_iterations,
    )


def _point(setting: _Setting, lam: float, r: float | None, descent: Descent) -> PathPoint:
    """What a descent came to: how well its picks align with held-out rows, and how diverse they are."""
    cost = vendi = None
    if setting.validate_MD is not None:
        solved = solve_picked(
            setting.shards,
            descent,
            setting.validate_MD,
            target_weights(None, len(setting.validate_MD)),
            eps=setting.params.validate_r * setting.cost_std,
            anneal_from=setting.cost_std,
            tolerance=VALIDATE_TOLERANCE,
            max_iterations=setting.params.max_iterations,
        )
        (plan_cost,) = setting.shards.reduce("transport_cost", PICKED, solved.g_M, solved.eps)
        setting.shards.call("prepare_diversity", PICKED, setting.map_DP)
        (second_PP,) = setting.shards.reduce("moment", PICKED, "second")
        setting.shards.call("close", PICKED)
        cost, vendi = float(plan_cost[0]), vendi_score(second_PP)
    return PathPoint(
        lam=lam,
        r=r,
        eps=descent.potentials.eps,
        validate_cost=cost,
        gap=descent.gap,
        marginal_error=descent.potentials.marginal_error,
        converged=descent.potentials.converged,
        vendi=vendi,
    )


def _finish(setting: _Setting, tried: _Tried, path: tuple[PathPoint, ...], usable: int) -> EvoSelectResult:
    """Certify, describe and measure a point of the path."""
    point, descent, start = tried
    shards, task = setting.shards, setting.task
    solved = solve_picked(
        shards,
        descent,
        setting.target_MD,
        task.weights_M,
        eps=point.eps,
        rho=setting.params.rho,
        anneal_from=setting.cost_std,
        tolerance=CERTIFICATE_TOLERANCE,
        max_iterations=setting.params.max_iterations,
    )
    shards.call("prepare_diversity", PICKED, setting.map_DP)
    memory = remember(shards, task.memory, setting.params.k)
    diversity = descent.lambda_eff * task.energy.value(memory.moment(task.energy.moment)) if point.lam else 0.0
    picks = (*pick_records(shards, descent), *_followers(setting, descent))
    (sigma_DD,) = shards.reduce("moment", PICKED, "second", True)
    shards.call("close", PICKED)
    target_sigma_DD = moment_of(torch.from_numpy(setting.target_MD), torch.from_numpy(task.weights_M), "second")
    return EvoSelectResult(
        picks=picks,
        lam=point.lam,
        r=point.r,
        eps=point.eps,
        cost_std=setting.cost_std,
        lambda_eff=descent.lambda_eff,
        scale_transport=descent.scale_transport,
        scale_diversity=descent.scale_diversity,
        potentials=descent.potentials,
        start_g_M=start.g_M,
        certificate=Certificate(
            objective=descent.objective,
            gap=descent.gap,
            picked_objective=solved.objective + diversity,
            lower_bound=descent.lower_bound,
            picked_converged=solved.converged,
        ),
        path=path,
        trace=descent.trace,
        vendi_picks=vendi_score(sigma_DD),
        vendi_target=vendi_score(target_sigma_DD),
        memory=memory,
        usable=usable,
        bounds=task.bounds,
    )


def _followers(setting: _Setting, descent: Descent) -> tuple[Pick, ...]:
    """The rows that come after the picks."""
    first = setting.params.k
    found = (
        Pick(id=row_id, tile=tile, row=row, rank=rank, weight=float(np.exp(-negative_log_w)), potential=f)
        for rank, (negative_log_w, f, row_id, tile, row) in enumerate(descent.more, first)
    )
    return with_nearest(setting.shards, tuple(found), setting.target_MD) if descent.more else ()


def _energy(params: EvoSelectParams, projected_MP: torch.Tensor, weights_M: Array) -> Energy:
    reference = moment_of(projected_MP, torch.from_numpy(weights_M), "second")
    return make_energy(params.energy, reference, delta=params.delta)


def cost_std(shards: Shards) -> float:
    """std(C) over the usable rows of the open problem `POOL` and its target, cost units."""
    (moments,) = shards.reduce("cost_moments", POOL)
    count, total, squares = (float(value) for value in moments)
    return max(float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0))), MIN_COST_STD)


def _check_start(start_g_M: Array | None, rows: int) -> None:
    if start_g_M is not None and (start_g_M.shape != (rows,) or not np.isfinite(start_g_M).all()):
        raise SelectionError(
            f"starting potentials of shape {start_g_M.shape} for {rows} target rows",
            "one finite potential for each target row",
            "give those of a solve against the same rows, or leave them out",
        )
