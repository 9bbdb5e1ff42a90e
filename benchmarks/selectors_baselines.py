"""What our selectors are compared with in `selector_speed.py`. Frozen: ours may change, these may not.

The straightforward dense form of each algorithm in torch: whole matrices, one device, no shards, each as fast as that
form goes. Ids rise with row numbers, so that the first row of equal ones is the one of the lower id. Target weights are
uniform and every row is usable. The constants are the defaults of our selectors.

`knn_kde` and `qdit` compare all pairs of rows: they are for pools of some thousand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

TOLERANCE, MAX_ITERATIONS = 1e-3, 2000  # L1 marginal error, and passes, of `uot` and `evoselect`
UOT_EPS, UOT_RHO = 0.01, 1e-4  # of the cost (1 - S) / 2
NEIGHBOURS, ALPHA, SCALE = 5000, 0.01, 5.0
SIGMA, DENSITY_NEIGHBOURS = 0.75, 1000
CLUSTERS, TRAINED_ROWS, LLOYD_ITERATIONS, LEAST_OF_CLUSTER = 512, 256, 20, 4
DEITA_THRESHOLD = 0.9
QDIT_ALPHA = 0.9
LAM, R = 0.3, 0.5  # the point of its path that `evoselect` runs at
ETA, STEPS, PASSES, REFRESH_EVERY, DELTA = 0.3, 40, 5, 2, 0.1


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Candidates, target, and how many to pick."""

    ids: Sequence[str]
    features_ND: torch.Tensor  # fp32
    target_MD: torch.Tensor  # fp32
    subtasks_M: torch.Tensor  # int64, from 0 on
    quality_N: torch.Tensor  # fp64
    k: int
    seed: int


def random_key(row_id: str, seed: int) -> int:
    """A row's place in the random order of a seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{row_id}".encode(), digest_size=8).digest(), "big")


def random(pool: Pool) -> list[int]:
    """A plain sort by hash."""
    keyed = sorted((random_key(row_id, pool.seed), row_id, row) for row, row_id in enumerate(pool.ids))
    return [row for *_, row in keyed[: pool.k]]


def everything(pool: Pool) -> list[int]:
    """All rows."""
    return list(range(len(pool.ids)))


def less(pool: Pool) -> list[int]:
    """The mean over the rows of each subtask, the max over subtasks."""
    similarity_NM = pool.features_ND @ pool.target_MD.T
    tasks = int(pool.subtasks_M.max()) + 1
    means = [similarity_NM[:, pool.subtasks_M == task].mean(dim=1) for task in range(tasks)]
    return _top(torch.stack(means).amax(dim=0), pool.k)


def doubly_greedy(pool: Pool) -> list[int]:
    """The max over targets."""
    return _top((pool.features_ND @ pool.target_MD.T).amax(dim=1), pool.k)


def round_robin(pool: Pool) -> list[int]:
    """The largest of a target's row, over and over; what is taken is masked for all."""
    similarity_MN = pool.target_MD @ pool.features_ND.T
    taken: list[int] = []
    for turn in range(pool.k):
        best = int(similarity_MN[turn % len(similarity_MN)].argmax())
        similarity_MN[:, best] = -torch.inf
        taken.append(best)
    return taken


def entropy(pool: Pool) -> list[int]:
    """The first column, highest first."""
    return _top(pool.features_ND[:, 0], pool.k)


def margin(pool: Pool) -> list[int]:
    """The second column, lowest first."""
    return _top(-pool.features_ND[:, 1], pool.k)


def least_confidence(pool: Pool) -> list[int]:
    """The third column, lowest first."""
    return _top(-pool.features_ND[:, 2], pool.k)


def uot(pool: Pool) -> list[int]:
    """Unbalanced Sinkhorn on a kernel that is formed once; a pass is two products with it."""
    rows, targets = len(pool.features_ND), len(pool.target_MD)
    similarity_NM = pool.features_ND @ pool.target_MD.T
    least_M = (1.0 - similarity_NM.amax(dim=0)) / 2.0
    kernel_NM = similarity_NM.sub_(1.0).div_(2.0).add_(least_M).div_(UOT_EPS).exp_().div_(targets)
    power = UOT_EPS / (UOT_RHO + UOT_EPS)
    g_M = torch.zeros(targets, dtype=torch.float64)  # beyond the least cost, which is in the kernel
    for _ in range(MAX_ITERATIONS):
        u_M = (g_M / UOT_EPS).exp()
        reach_N = torch.mv(kernel_NM, u_M.float())
        c_M = u_M * torch.mv(kernel_NM.T, reach_N.pow(power - 1.0)).double() / rows
        if float((c_M - 1.0 / targets).abs().sum()) <= TOLERANCE:
            break
        g_M = g_M - UOT_EPS * (c_M * targets).log() - UOT_RHO * c_M.sum().log()
    return _top(reach_N, pool.k)


def knn_uniform(pool: Pool) -> list[int]:
    """Lists by `topk` of all similarities, then the growth of k."""
    similarity_ML, row_ML = torch.topk(pool.target_MD @ pool.features_ND.T, min(NEIGHBOURS, len(pool.ids)), dim=1)
    length = row_ML.shape[1]
    distance_L = (1.0 - similarity_ML.double()).mean(dim=0)
    gain_L = torch.arange(1, length) * distance_L[1:] - distance_L[:-1].cumsum(0)
    enough = (ALPHA / SCALE * gain_L >= 1.0 - ALPHA).nonzero().flatten()
    k = int(enough[0]) + 1 if len(enough) else length
    place_ML = torch.arange(length).expand_as(row_ML)
    first_N = torch.full((len(pool.ids),), length).scatter_reduce_(0, row_ML.flatten(), place_ML.flatten(), "amin")
    k = max(k, int(first_N.kthvalue(pool.k).values) + 1)
    count_N = torch.bincount(row_ML[:, :k].flatten(), minlength=len(pool.ids))
    return _first(torch.argsort(count_N, descending=True, stable=True), pool.k)


def knn_kde(pool: Pool) -> list[int]:
    """Lists by `topk`, densities by all pairs of the rows in them, then the growth of the level."""
    tenth = max(1, len(pool.ids) // 10)
    similarity_MN = pool.target_MD @ pool.features_ND.T
    length, union_U = min(NEIGHBOURS, tenth), torch.zeros(0, dtype=torch.int64)
    while len(union_U) < pool.k:
        similarity_ML, row_ML = torch.topk(similarity_MN, min(length, len(pool.ids)), dim=1)
        union_U, length = torch.from_numpy(np.unique(row_ML.numpy())), 2 * length
    held_UD = pool.features_ND[union_U]
    kernel_UU = (1.0 - (2.0 - 2.0 * (held_UD @ held_UD.T)) / SIGMA**2).clamp_(min=0.0)
    density_U = torch.topk(kernel_UU, min(DENSITY_NEIGHBOURS, tenth, len(union_U)), dim=1).values.double().sum(dim=1)
    number_ML = torch.searchsorted(union_U, row_ML).numpy()
    share_ML = 1.0 / density_U.numpy()[number_ML]
    distance_ML = (2.0 - 2.0 * similarity_ML.double()).clamp(min=0.0).sqrt().numpy()
    level_ML = np.cumsum(share_ML, axis=1)
    level = _covering_level(number_ML, level_ML, _stopping_level(distance_ML, share_ML, level_ML), pool.k)
    before_ML = level_ML - share_ML
    own_M1 = np.minimum(level, level_ML[:, -1:])
    given_ML = np.where(level_ML <= own_M1, share_ML, np.clip(own_M1 - before_ML, 0.0, None)) / own_M1
    mass_U = np.bincount(number_ML.ravel(), weights=given_ML.ravel())
    return _first(union_U[torch.from_numpy(np.argsort(-mass_U, kind="stable"))], pool.k)


def _stopping_level(distance_ML: Array, share_ML: Array, level_ML: Array) -> float:
    """The first level, of all in order, at which the summed cost is enough."""
    cost_ML = distance_ML[:, 1:] * level_ML[:, :-1] - np.cumsum(distance_ML * share_ML, axis=1)[:, :-1]
    step = np.diff(cost_ML, axis=1, prepend=0.0).ravel() / len(level_ML)
    order = np.argsort(level_ML[:, :-1], axis=None)
    enough = (ALPHA / SCALE * np.cumsum(step[order]) >= 1.0 - ALPHA).nonzero()[0]
    return float(level_ML[:, :-1].ravel()[order[enough[0]]] if len(enough) else level_ML.max())


def _covering_level(number_ML: Numbers, level_ML: Array, level: float, k: int) -> float:
    """That level, or the next at which k rows are reached: a row is, once the level is above that before it."""
    least_U = np.full(int(number_ML.max()) + 1, np.inf)
    before_ML = np.concatenate([np.zeros((len(level_ML), 1)), level_ML[:, :-1]], axis=1)
    np.minimum.at(least_U, number_ML, before_ML)
    wanted = np.partition(least_U, k - 1)[k - 1]
    return level if wanted < level else float(level_ML[level_ML > wanted].min())


def k_center(pool: Pool) -> list[int]:
    """One product with all rows a pick."""
    features_ND = pool.features_ND
    norm_N = features_ND.square().sum(dim=1)
    best = min((random_key(row_id, pool.seed), row) for row, row_id in enumerate(pool.ids))[1]
    square_N = torch.full_like(norm_N, torch.inf)
    taken = [best]
    while len(taken) < pool.k:
        to_best_N = torch.mv(features_ND, features_ND[best]).mul_(-2.0).add_(norm_N).add_(norm_N[best])
        torch.minimum(square_N, to_best_N, out=square_N)
        square_N[best] = -torch.inf
        best = int(square_N.argmax())
        taken.append(best)
    return taken


def kmeans_quality(pool: Pool) -> list[int]:
    """Lloyd's algorithm, then draws by quality from each cluster."""
    return _drawn_in_turn(pool, pool.quality_N.numpy())


def kmeans_random(pool: Pool) -> list[int]:
    """Lloyd's algorithm, then uniform draws from each cluster."""
    return _drawn_in_turn(pool, np.zeros(len(pool.ids)))


def _drawn_in_turn(pool: Pool, log_chance_N: Array) -> list[int]:
    count = max(1, min(CLUSTERS, pool.k // LEAST_OF_CLUSTER))
    cluster_N = _lloyd(pool, count).numpy()
    key_N = np.fromiter((random_key(row_id, pool.seed) for row_id in pool.ids), np.uint64, len(pool.ids))
    uniform_N = ((key_N >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52
    score_N = log_chance_N - np.log(-np.log(uniform_N))
    order = np.lexsort((-score_N, cluster_N))
    draw_N = np.empty(len(order), np.int64)
    draw_N[order] = np.arange(len(order)) - np.searchsorted(cluster_N[order], cluster_N[order])
    turn_C = np.empty(count, np.int64)
    turn_C[np.argsort(-np.bincount(cluster_N, minlength=count), kind="stable")] = np.arange(count)
    taken: list[int] = np.lexsort((turn_C[cluster_N], draw_N))[: pool.k].tolist()
    return taken


def _lloyd(pool: Pool, count: int) -> torch.Tensor:
    """The cluster of each row; centroids are trained on a sample, from its first rows on."""
    ids, features_ND = pool.ids, pool.features_ND
    key_N = np.fromiter((random_key(f"clusters\0{row_id}", pool.seed) for row_id in ids), np.uint64, len(ids))
    order = np.argsort(key_N)
    sample_SD = features_ND[torch.from_numpy(np.sort(order[: count * TRAINED_ROWS]))]
    centroids_CD = features_ND[torch.from_numpy(order[:count])]
    cluster_S = torch.full((len(sample_SD),), -1)
    for _ in range(LLOYD_ITERATIONS):
        before_S, cluster_S = cluster_S, _nearest(sample_SD, centroids_CD)
        if torch.equal(before_S, cluster_S):
            break
        held_C = torch.bincount(cluster_S, minlength=count)
        sums_CD = torch.zeros_like(centroids_CD).index_add_(0, cluster_S, sample_SD)
        centroids_CD = torch.where(held_C[:, None] > 0, sums_CD / held_C[:, None].clamp(min=1), centroids_CD)
    return _nearest(features_ND, centroids_CD)


def _nearest(rows_ND: torch.Tensor, centroids_CD: torch.Tensor) -> torch.Tensor:
    return torch.addmm(centroids_CD.square().sum(dim=1), rows_ND, centroids_CD.T, alpha=-2.0).argmin(dim=1)


def deita(pool: Pool) -> list[int]:
    """One product with all picks a row, by falling quality; the threshold is halved until enough pass."""
    order = torch.argsort(pool.quality_N, descending=True, stable=True).tolist()
    norms = pool.features_ND.square().sum(dim=1)
    taken: list[int] = []
    threshold = DEITA_THRESHOLD
    while len(taken) < pool.k:
        taken = _far_apart(pool, order, norms, threshold)
        threshold /= 2.0
    return taken


def _far_apart(pool: Pool, order: Sequence[int], norm_N: torch.Tensor, threshold: float) -> list[int]:
    picked_KD, norm_K = torch.empty(pool.k, pool.features_ND.shape[1]), torch.empty(pool.k)
    taken: list[int] = []
    for row in order:
        count, one_D = len(taken), pool.features_ND[row]
        if count:
            square_K = torch.addmv(norm_K[:count], picked_KD[:count], one_D, alpha=-2.0)
            if float(square_K.min() + norm_N[row]) < threshold:
                continue
        picked_KD[count], norm_K[count] = one_D, norm_N[row]
        taken.append(row)
        if len(taken) == pool.k:
            break
    return taken


def qdit(pool: Pool) -> list[int]:
    """Greedy facility location on all pairs; a pick changes the gains by the rows that it serves better alone."""
    similarity_NN = pool.features_ND @ pool.features_ND.T
    low, high = pool.quality_N.min(), pool.quality_N.max()
    quality_N = QDIT_ALPHA * (pool.quality_N - low) / (high - low)
    served_N = torch.zeros(len(pool.ids))
    gain_N = similarity_NN.clamp(min=0.0).sum(dim=1, dtype=torch.float64)
    taken: list[int] = []
    while len(taken) < pool.k:
        score_N = (1.0 - QDIT_ALPHA) * gain_N + quality_N
        score_N[taken] = -torch.inf
        best = int(score_N.argmax())
        better_n = (similarity_NN[best] > served_N).nonzero().flatten()
        before_n, after_n = served_N[better_n], similarity_NN[best, better_n]
        lost_nN = torch.minimum(similarity_NN[better_n], after_n[:, None]).sub_(before_n[:, None]).clamp_(min=0.0)
        gain_N -= lost_nN.sum(dim=0, dtype=torch.float64)
        served_N[better_n] = after_n
        taken.append(best)
    return taken


def evoselect(pool: Pool) -> list[int]:
    """Mirror descent on the kernel matrix, with the relative Vendi energy; as wide as features are (512 at most)."""
    features_ND, rows, targets = pool.features_ND, len(pool.features_ND), len(pool.target_MD)
    similarity_NM = features_ND @ pool.target_MD.T
    spread = float(similarity_NM.std(correction=0))
    eps = R * spread
    g_M = 1.0 - similarity_NM.amax(dim=0).double()
    kernel_NM = similarity_NM.sub_(1.0).div_(eps).exp_()
    log_w_N = torch.full((rows,), -float(np.log(rows)), dtype=torch.float64)
    log_reference_DD = _log(_smoothed(pool.target_MD.double(), torch.full((targets,), 1.0 / targets).double()))
    f_N, g_M = _sinkhorn(kernel_NM, log_w_N.exp(), g_M, eps, MAX_ITERATIONS)
    for step in range(STEPS):
        w_N = log_w_N.exp()
        if step % REFRESH_EVERY == 0:
            log_DD = _log(_smoothed(features_ND, w_N)) - log_reference_DD
            gradient_DD = (1.0 - DELTA) * (log_DD + torch.eye(len(log_DD), dtype=torch.float64))
            d_N = (features_ND @ gradient_DD.float()).mul_(features_ND).sum(dim=1).double()
        f_N, g_M = _sinkhorn(kernel_NM, w_N, g_M, eps, PASSES if step else MAX_ITERATIONS)
        if step == 0:
            scale = _spread(w_N, f_N)
            weight = LAM * scale / _spread(w_N, d_N)
        total_N = f_N + weight * d_N
        log_w_N += (-ETA / (scale * max(1.0, LAM)) * (total_N - w_N @ total_N)).clamp_(-1.0, 1.0)
        log_w_N = _capped(log_w_N, pool.k)
    f_N, _ = _sinkhorn(kernel_NM, log_w_N.exp(), g_M, eps, MAX_ITERATIONS)
    picked: list[int] = np.lexsort((f_N.numpy(), -log_w_N.numpy()))[: pool.k].tolist()
    return picked


def _sinkhorn(
    kernel_NM: torch.Tensor, w_N: torch.Tensor, g_M: torch.Tensor, eps: float, limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(f, g) after passes to the tolerance or the limit."""
    targets = len(g_M)
    for count in range(1, limit + 1):
        v_M = (g_M / eps).exp() / targets
        sums_N = torch.mv(kernel_NM, v_M.float())
        c_M = v_M * torch.mv(kernel_NM.T, (w_N / sums_N).float()).double()
        if count == limit or float((c_M - 1.0 / targets).abs().sum()) <= TOLERANCE:
            break
        g_M = g_M - eps * (c_M * targets).log()
        g_M = g_M - g_M.mean()
    return -eps * sums_N.double().log(), g_M


def _smoothed(features_ND: torch.Tensor, w_N: torch.Tensor) -> torch.Tensor:
    dim = features_ND.shape[1]
    moment_DD = (features_ND.T @ (features_ND * w_N.to(features_ND.dtype)[:, None])).double()
    return (1.0 - DELTA) * moment_DD + DELTA / dim * torch.eye(dim, dtype=torch.float64)


def _log(matrix_DD: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix_DD)
    log_DD: torch.Tensor = (vectors * values.log()) @ vectors.T
    return log_DD


def _spread(w_N: torch.Tensor, value_N: torch.Tensor) -> float:
    mean = float(w_N @ value_N)
    return float(np.sqrt(float(w_N @ value_N**2) - mean**2))


def _capped(log_v_N: torch.Tensor, k: int) -> torch.Tensor:
    """The projection onto weights of sum 1 and at most 1 / k."""
    log_cap, held = -float(np.log(k)), -1
    log_scale = -float(torch.logsumexp(log_v_N, dim=0))
    while True:
        capped_N = log_v_N + log_scale >= log_cap
        count = int(capped_N.sum())
        if count in (held, k):
            return (log_v_N + log_scale).clamp_(max=log_cap)
        held = count
        log_scale = float(np.log(1.0 - count / k)) - float(torch.logsumexp(log_v_N[~capped_N], dim=0))


def _top(score_N: torch.Tensor, k: int) -> list[int]:
    return _first(torch.topk(score_N, k).indices, k)


def _first(rows: torch.Tensor, k: int) -> list[int]:
    found: list[int] = rows[:k].tolist()
    return found


#: By the names of our selectors.
BASELINES: dict[str, Callable[[Pool], list[int]]] = {
    "all": everything,
    "deita": deita,
    "doubly_greedy": doubly_greedy,
    "entropy": entropy,
    "evoselect": evoselect,
    "k_center": k_center,
    "kmeans_quality": kmeans_quality,
    "kmeans_random": kmeans_random,
    "knn_kde": knn_kde,
    "knn_uniform": knn_uniform,
    "least_confidence": least_confidence,
    "less": less,
    "margin": margin,
    "qdit": qdit,
    "random": random,
    "round_robin": round_robin,
    "uot": uot,
}
