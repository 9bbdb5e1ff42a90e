"""What the plan of `paper_plan.py` multiplies: what was measured, what vendors say, what is assumed, and how.

Every input is a field with its source beside it. All hours are of one round, all bytes plain.
"""

from __future__ import annotations

from dataclasses import dataclass

from evoray.config import FeatureConfig, SelectionConfig
from evoray.engine.shards import units_per_tile
from evoray.models.flops import FORWARD_AND_BACKWARD, peak_of
from evoray.storage.backend import UNDER_WAY
from evoray.storage.units import TABLES


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seen by this project's benchmarks, on two cores without a GPU; where, is beside it."""

    feature_over_plain: tuple[float, float] = (0.99, 1.07)  # results/featurize: float32, bfloat16
    training_over_plain: float = 1 / 1.22  # results/training: tokens a second of a plain loop over ours
    launch_seconds: float = 26.4  # results/training: of one training, to the end of its first step
    core_us_a_row: float = 431.0  # results/million: a selection of one point; M = 1,000, D = 512
    core_us_a_step: float = 7.6  # results/million: of one row in one of its 40 steps
    memory_a_row: float = 6.8e3  # results/million: bytes, D = 512
    # results/reduction: milliseconds of one at so many shards, quiet: M = 1,024; the moment of 512 x 512; a small call
    reduction_ms: tuple[tuple[int, float], ...] = ((64, 26.0), (512, 158.0))
    moment_ms: tuple[tuple[int, float], ...] = ((64, 173.0), (512, 386.0))
    call_ms: tuple[tuple[int, float], ...] = ((64, 19.0), (512, 144.0))
    reduction_bytes: tuple[tuple[int, float], ...] = ((64, 2.7e6), (512, 10.2e6))  # of all answers
    moment_bytes: tuple[tuple[int, float], ...] = ((64, 0.69e9), (512, 2.6e9))
    # results/reduction: counted on 2,000 rows with unchanged defaults (seven points of 40 steps)
    reductions: int = 3615
    moments: int = 100
    calls: int = 628
    ranked_bytes: float = 290.0  # results/reduction: a ranked row on the driver
    commit_bytes: float = 1070.0  # results/reduction: a commit record in memory
    block_bytes: float = 4330.0  # results/reduction: a unit of work in Ray Data's input
    duplicate_bytes: float = 205.0  # results/reduction: a row, while exact duplicates are looked for


@dataclass(frozen=True, kw_only=True)
class Published:
    """Said by vendors."""

    gpu: str = "NVIDIA H100 80GB HBM3"  # its peak, dense bfloat16, from the data sheet: evoray/models/flops.py
    other_gpu: str = "NVIDIA A100-SXM4-80GB"
    puts_a_second: float = 3500.0  # Amazon S3, user guide: writes and deletes of one prefix


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """Known to nobody before a run: put your own."""

    tokens_a_row: float = 256.0  # 183 in the eight public files of results/featurize
    text_bytes_a_row: float = 2000.0
    mfu: tuple[float, float] = (0.14, 0.5)  # of passes, by 6 operations a parameter and token; 0.14 was seen
    gpu_hour: tuple[float, float] = (2.0, 8.0)  # the price of an H100 for an hour, spot to on demand
    other_gpu_hour: tuple[float, float] = (1.2, 4.0)  # of an A100
    gpus_a_machine: int = 8
    cores_a_gpu: int = 8  # that the selection has
    largest_shards: int = 512
    targets: int = 1000  # M
    share: float = 0.01  # K over N
    request_seconds: float = 0.02  # of a small request to a bucket, also where others are under way
    one_process_rate: float = 0.5e9  # bytes a second that one process reads, checks and decodes


MEASURED, PUBLISHED, ASSUMED = Measured(), Published(), Assumed()

#: Requests that single processes make for every unit in a run of one round with a control arm, how many of them are
#: under way at a time, and which files they read whole: p the pool's, f the features'. Read from the code; the report's
#: are those of one round.
SINGLE: tuple[tuple[str, int, int, str], ...] = (
    ("marks of tries are deleted, after reading and after features (`clear_marks`)", 2, UNDER_WAY, ""),
    ("commit records of the pool are counted (`read_pool`)", 1, UNDER_WAY, ""),
    ("exact duplicates are looked for (`find_duplicates`)", 2, TABLES, "p"),
    ("the picked rows are gathered, for three trials and for the round (`write_selected`)", 8, TABLES, "pppp"),
    ("tokens of the picks are added (`token_sum`)", 2, TABLES, "f"),
    ("random rows of as many tokens are drawn (`draw_control`)", 4, TABLES, "fp"),
    ("the report counts rows, tokens and rows cut short (`summary.py`, `feature_map.py`)", 3, UNDER_WAY, ""),
    ("the report counts sources (`source_counts`)", 2, TABLES, "p"),
)
#: Requests of workers for one unit: when it is read, and when it is featurised.
WORKER_PUTS, WORKER_GETS = (3, 4), (0, 2)
#: Points of the default path: three lambda at two r, and one of mean similarity for the trials; distinct r.
POINTS, STARTS = 7, 3
#: Trainings of K rows in a round: the trials, and the control arm.
TRAININGS = SelectionConfig().trials + 1

Range = tuple[float, float]


def units_of(rows: int, unit_rows: int) -> int:
    """Units of a pool."""
    return -(-rows // unit_rows)


def tiles_of(rows: int, unit_rows: int) -> int:
    """Tiles of the solver, and so the most shards that it can have."""
    units = units_of(rows, unit_rows)
    return -(-units // units_per_tile(units))


def shards_of(rows: int, unit_rows: int, gpus: int) -> int:
    """Shards of a selection on the cores beside so many GPUs."""
    return min(gpus * ASSUMED.cores_a_gpu, ASSUMED.largest_shards, tiles_of(rows, unit_rows))


def peak(name: str) -> float:
    """Operations a second. Raises KeyError for a GPU whose peak is not known."""
    found = peak_of(name)
    if found is None:
        raise KeyError(name)
    return found


def passes(tokens: float, parameters: float, gpu: str, over: Range) -> Range:
    """GPU hours of passes forward and back, least and most; over: as many times a plain pass."""
    seconds = tokens * FORWARD_AND_BACKWARD * parameters / peak(gpu)
    return seconds * over[0] / ASSUMED.mfu[1] / 3600, seconds * over[1] / ASSUMED.mfu[0] / 3600


def feature_hours(rows: int, parameters: float, gpu: str = PUBLISHED.gpu) -> Range:
    """GPU hours of gradient features."""
    return passes(rows * ASSUMED.tokens_a_row, parameters, gpu, MEASURED.feature_over_plain)


def training_hours(rows: int, parameters: float) -> Range:
    """GPU hours of a round's trainings, one epoch each."""
    over = MEASURED.training_over_plain
    return passes(TRAININGS * ASSUMED.share * rows * ASSUMED.tokens_a_row, parameters, PUBLISHED.gpu, (over, over))


def selection_core_hours(rows: int) -> float:
    """Core hours of a selection over the default path: each start of an r, and all steps, at D = 512."""
    starts = MEASURED.core_us_a_row - (SelectionConfig().steps - 1) * MEASURED.core_us_a_step
    steps = POINTS * SelectionConfig().steps * MEASURED.core_us_a_step
    return rows * (STARTS * starts + steps) * 1e-6 / 3600


def selection_memory(rows: int, dim: int) -> float:
    """Bytes of all shards together: measured at 512 dimensions, and more or less by the features' own."""
    return rows * (MEASURED.memory_a_row + 4 * (dim - 512))


def reduction_hours(shards: int) -> float:
    """Hours of the default path's reductions and calls, beside what shards compute."""
    counted = ((MEASURED.reductions, MEASURED.reduction_ms), (MEASURED.moments, MEASURED.moment_ms))
    return sum(number * at(seen, shards) for number, seen in (*counted, (MEASURED.calls, MEASURED.call_ms))) / 3.6e6


def at(seen: tuple[tuple[int, float], ...], shards: int) -> float:
    """Between two numbers of shards, a straight line; in proportion below the first."""
    (few, less), (many, more) = seen
    if shards <= few:
        return less * shards / few
    return less + (more - less) * (shards - few) / (many - few)


def request_hours(rows: int, unit_rows: int) -> float:
    """Hours of what single processes ask of a bucket."""
    waits = sum(number / at_a_time for _, number, at_a_time, _ in SINGLE)
    return units_of(rows, unit_rows) * waits * ASSUMED.request_seconds / 3600


def one_process_bytes(rows: int, dim: int) -> float:
    """Bytes that single processes read, each file whole: those of `SINGLE`, and the pool once to hash it."""
    read = "p" + "".join(files for *_, files in SINGLE)
    return rows * (read.count("p") * ASSUMED.text_bytes_a_row + read.count("f") * 4 * dim)


def one_process_hours(rows: int, dim: int) -> float:
    """Hours of that reading, one after another."""
    return one_process_bytes(rows, dim) / ASSUMED.one_process_rate / 3600


def waiting_share(unit_rows: int, parameters: float) -> Range:
    """Of a GPU's time, the part in which its worker waits for a bucket: least and most."""
    waits = (WORKER_PUTS[1] + WORKER_GETS[1]) * ASSUMED.request_seconds
    fast, slow = (3600 * hours for hours in feature_hours(unit_rows, parameters))
    return waits / (waits + slow), waits / (waits + fast)


def hours_of(rows: int, parameters: float, gpus: int, unit_rows: int) -> dict[str, float]:
    """The longer estimate of each part of a round, in hours."""
    shards = shards_of(rows, unit_rows, gpus)
    waits = units_of(rows, unit_rows) * (sum(WORKER_PUTS) + sum(WORKER_GETS)) * ASSUMED.request_seconds / 3600
    return {
        "features": feature_hours(rows, parameters)[1] / gpus,
        "workers' requests": waits / gpus,
        "selection": selection_core_hours(rows) / shards,
        "reductions": reduction_hours(shards),
        "training": training_hours(rows, parameters)[1] / gpus + TRAININGS * MEASURED.launch_seconds / 3600,
        "single requests": request_hours(rows, unit_rows),
        "one process": one_process_hours(rows, FeatureConfig().dim),
    }


def numbers_taken_in(rows: int, shards: int) -> float:
    """Of the K first over all shards, each shard tells its first K, or all that it has: as numbers alone."""
    return min(ASSUMED.share * rows * shards, rows)
