"""What would 10 and 100 million rows take, with proxies of 0.5 and 7 billion parameters, on 8, 64 and 512 GPUs?

Nothing is run: `paper_costs.py` has what was measured, what vendors say and what is assumed, and multiplies. Change it,
and write the tables of the guide anew:

    python benchmarks/paper_plan.py            # the tables, and as one JSON object
    python benchmarks/paper_plan.py --write    # into docs/guides/paper-plan.md

`docs/guides/paper-plan.md` says what the tables mean.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from paper_costs import (
    ASSUMED,
    MEASURED,
    PUBLISHED,
    SINGLE,
    WORKER_PUTS,
    Range,
    at,
    feature_hours,
    hours_of,
    numbers_taken_in,
    one_process_bytes,
    reduction_hours,
    request_hours,
    selection_core_hours,
    selection_memory,
    shards_of,
    tiles_of,
    units_of,
    waiting_share,
)

from evoray.config import FeatureConfig, PoolConfig, SelectionConfig

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "paper-plan.md"

POOLS = {"10 million": 10_000_000, "100 million": 100_000_000}
PROXIES = {"0.5B": 0.5e9, "7B": 7e9}
GPUS = (8, 64, 512)
UNIT_ROWS = (PoolConfig().unit_rows, 256, 1024)
DIMS = (512, FeatureConfig().dim, 8192)

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def gpu_table() -> Table:
    """Features: hours and prices."""
    heads = ("rows", "proxy", "GPU hours", *(f"hours on {gpus}" for gpus in GPUS), "machine hours", "price", "on A100")
    lines = []
    for pool, rows in POOLS.items():
        for proxy, parameters in PROXIES.items():
            hours = feature_hours(rows, parameters)
            other = feature_hours(rows, parameters, PUBLISHED.other_gpu)
            lines.append(
                (pool, proxy, span(hours), *(span(scaled(hours, 1 / gpus)) for gpus in GPUS),
                 span(scaled(hours, 1 / ASSUMED.gpus_a_machine)), span(priced(hours, ASSUMED.gpu_hour)),
                 f"{span(other)} h, {span(priced(other, ASSUMED.other_gpu_hour))}")
            )  # fmt: skip
    return heads, lines


def round_table() -> Table:
    """A whole round, by its parts, and which of them is the longest."""
    lines = []
    for pool, rows in POOLS.items():
        for proxy, parameters in PROXIES.items():
            for gpus in GPUS:
                for unit_rows in (UNIT_ROWS[0], UNIT_ROWS[-1]):
                    hours = hours_of(rows, parameters, gpus, unit_rows)
                    longest = max(hours, key=lambda name: hours[name])
                    lines.append((pool, proxy, str(gpus), str(unit_rows), *map(short, hours.values()), longest))
    return ("rows", "proxy", "GPUs", "unit", *hours_of(1, 1.0, 1, 1), "longest"), lines


def stored_table() -> Table:
    """Features in storage, by dimensions and type."""
    lines = []
    for dim in DIMS:
        for kind, width in (("float32", 4), ("float16 (not written by evoray)", 2)):
            lines.append((str(dim), kind, f"{dim * width:,}", *(amount(rows * dim * width) for rows in POOLS.values())))
    return ("dimensions", "type", "bytes a row", *POOLS), lines


def network_table() -> Table:
    """Bytes that travel."""
    dim, text = FeatureConfig().dim, ASSUMED.text_bytes_a_row

    def both(bytes_: Callable[[int], float]) -> list[str]:
        return [amount(bytes_(rows)) for rows in POOLS.values()]

    lines: list[Sequence[str]] = [
        ("the pool, read and written by workers: raw, as units, for features", *both(lambda rows: 3 * rows * text)),
        (f"features of {dim} dimensions, written and read by shards", *both(lambda rows: 8 * rows * dim)),
        ("read by single processes", *both(lambda rows: one_process_bytes(rows, dim))),
    ]
    for shards in (64, 512):
        one, moment = at(MEASURED.reduction_bytes, shards), at(MEASURED.moment_bytes, shards)
        whole = MEASURED.reductions * one + MEASURED.moments * moment
        lines.append((f"a reduction of {shards} shards, M = 1,024", amount(one), amount(one)))
        lines.append((f"a reduction of the moment, {shards} shards", amount(moment), amount(moment)))
        lines.append((f"all reductions of a selection, {shards} shards", amount(whole), amount(whole)))
    return ("what", *POOLS), lines


def selection_table() -> Table:
    """The selection: shards, computing, reductions, and memory for kernels."""
    lines = []
    for pool, rows in POOLS.items():
        for gpus in GPUS:
            shards = shards_of(rows, UNIT_ROWS[0], gpus)
            kernels = 4 * rows * ASSUMED.targets / shards / 2**20
            fits = "fits" if kernels <= SelectionConfig().cache_mb else f"set {-(-int(kernels) // 256) * 256}"
            lines.append(
                (pool, str(gpus), str(shards), short(selection_core_hours(rows)),
                 short(selection_core_hours(rows) / shards), short(reduction_hours(shards)),
                 amount(selection_memory(rows, FeatureConfig().dim)), f"{kernels:,.0f}", fits)
            )  # fmt: skip
    heads = ("rows", "GPUs", "shards", "core hours", "hours", "of reductions", "memory of all", "MB of kernels a shard")
    return (*heads, "`selection.cache_mb`"), lines


def unit_table() -> Table:
    """Units, and what is asked of a bucket for them."""
    lines = []
    for pool, rows in POOLS.items():
        for unit_rows in UNIT_ROWS:
            units = units_of(rows, unit_rows)
            puts = [
                WORKER_PUTS[1] * units / (3600 * feature_hours(rows, parameters)[0] / GPUS[-1])
                for parameters in PROXIES.values()
            ]
            waits = [span(scaled(waiting_share(unit_rows, parameters), 100)) for parameters in PROXIES.values()]
            lines.append(
                (pool, str(unit_rows), f"{units:,}", f"{tiles_of(rows, unit_rows):,}",
                 short(request_hours(rows, unit_rows)), *waits, *map(_writes, puts))
            )  # fmt: skip
    heads = ("rows", "`reading.unit_rows`", "units", "tiles", "single requests, hours")
    waiting = (f"waiting, % of a GPU, {proxy}" for proxy in PROXIES)
    return (*heads, *waiting, *(f"writes a second on 512, {proxy}" for proxy in PROXIES)), lines


def growth_table() -> Table:
    """Memory of single processes."""
    seen, unit_rows = MEASURED, UNIT_ROWS[0]

    def both(size: Callable[[int], float]) -> list[str]:
        return [amount(size(rows)) for rows in POOLS.values()]

    def a_unit(size: float) -> list[str]:
        return both(lambda rows: size * units_of(rows, unit_rows))

    lines: list[Sequence[str]] = [
        ("driver", "the K rows of the largest weights, ranked", "K",
         *both(lambda rows: seen.ranked_bytes * rows * ASSUMED.share)),
        ("driver", "K numbers of each of 512 shards: weights, or gradients", "rows (K x shards, at most N)",
         *both(lambda rows: 8 * numbers_taken_in(rows, 512))),
        ("driver", "input of a stage in Ray Data", "units", *a_unit(seen.block_bytes)),
        ("driver", "commit records, each time they are counted", "units", *a_unit(seen.commit_bytes)),
        ("one task", "exact duplicates", "rows", *both(lambda rows: seen.duplicate_bytes * rows)),
        ("one task", "near-duplicates (with `generation` alone): texts and signatures", "rows",
         *both(lambda rows: rows * (2 * ASSUMED.text_bytes_a_row + 4 * 64 + 8 * 16))),
    ]  # fmt: skip
    return ("process", "what", "grows with", *POOLS), lines


def _writes(a_second: float) -> str:
    return f"{a_second:,.0f}" + (" (too many)" if a_second > PUBLISHED.puts_a_second else "")


def single_table() -> Table:
    """What `SINGLE` has."""
    files = {"p": "pool", "f": "features"}
    return ("what", "requests a unit", "at a time", "files read whole"), [
        (
            what,
            str(number),
            str(at_a_time),
            ", ".join(f"{read.count(key)} x {files[key]}" for key in files if key in read) or "none",
        )
        for what, number, at_a_time, read in SINGLE
    ]


TABLES: dict[str, Callable[[], Table]] = {
    "features": gpu_table,
    "round": round_table,
    "stored": stored_table,
    "network": network_table,
    "selection": selection_table,
    "units": unit_table,
    "single requests": single_table,
    "growth": growth_table,
}


def scaled(one: Range, factor: float) -> Range:
    """Both ends, times a factor."""
    return one[0] * factor, one[1] * factor


def priced(hours: Range, hour: Range) -> Range:
    """From the least hours at the least price to the most at the most."""
    return hours[0] * hour[0], hours[1] * hour[1]


def short(value: float) -> str:
    """Two digits that count."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return "0" if not value else f"{float(f'{value:.2g}'):g}"


def span(one: Range) -> str:
    """Least to most."""
    return f"{short(one[0])} to {short(one[1])}"


def amount(size: float) -> str:
    """Bytes, in thousands of thousands."""
    for name, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= unit:
            return f"{short(size / unit)} {name}"
    return f"{short(size / 1e3)} kB"


def markdown(table: Table) -> str:
    """A table of Markdown."""
    heads, lines = table
    rule = ["---"] * len(heads)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))


def filled(page: str) -> str:
    """A page with its tables written anew: each follows a comment `<!-- plan: NAME -->`, to an empty line."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{markdown(TABLES[found[2]]())}\n"

    return re.sub(r"(<!-- plan: ([\w ]+) -->)\n(?:\|.*\n)*", table, page)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the guide")
    if parser.parse_args().write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"\n## {name}\n\n{markdown(table())}")
    print(json.dumps({name: table() for name, table in TABLES.items()}))


if __name__ == "__main__":
    main()
