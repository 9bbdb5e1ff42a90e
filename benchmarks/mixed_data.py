"""The data of benchmarks on real sets: one pool mixed from several files, and a target's first seeded test rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DATA_SEED = 0  # of the pool's mixture and of the test rows: the same for every cell


def mix_pool(folder: Path, path: Path, rows_per_file: int) -> Path:
    """Equal numbers of seeded random rows of every pool file."""
    if not path.is_file():
        generator = np.random.default_rng(DATA_SEED)
        tables = []
        for file in sorted(folder.glob("*.parquet")):
            table = pq.read_table(file)
            rows = np.sort(generator.permutation(table.num_rows)[:rows_per_file])
            tables.append(table.take(pa.array(rows)))
        pq.write_table(pa.concat_tables(tables), path)
    return path


def tuning_folder(name: str, data: Path, out: Path) -> Path:
    """A target made of dev rows alone, half of them as its test rows: settings are tried on it, never on test rows."""
    folder = out / "tuning" / name
    if not (folder / "test.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        dev = pq.read_table(data / "targets" / name / "dev.parquet")
        order = np.random.default_rng(DATA_SEED).permutation(dev.num_rows)
        half = dev.num_rows // 2
        pq.write_table(dev.take(pa.array(np.sort(order[:half]))), folder / "dev.parquet")
        pq.write_table(dev.take(pa.array(np.sort(order[half:]))), folder / "test.parquet")
    return folder


def target_folder(name: str, data: Path, out: Path, test_rows: int) -> Path:
    """A copy of a target of `data`: its dev rows, and some seeded test rows."""
    folder = out / "targets" / name
    if not (folder / "test.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        test = pq.read_table(data / "targets" / name / "test.parquet")
        order = np.random.default_rng(DATA_SEED).permutation(test.num_rows)[:test_rows]
        pq.write_table(pq.read_table(data / "targets" / name / "dev.parquet"), folder / "dev.parquet")
        pq.write_table(test.take(pa.array(np.sort(order))), folder / "test.parquet")
    return folder
