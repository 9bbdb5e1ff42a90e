"""How many faults do the tests of the mathematics notice? A seeded sample of mutants, and the share that is killed.

mutmut changes one place of `alignment/`, `diversity/`, `features/sketches/` or `selection/` at a time and runs the
tests that reach it; a mutant that no test fails on has survived. There are more than ten thousand, so a sample is
drawn, and the share has an interval. Mutants that change nothing that can be seen count as survivors, too.

    make mutants [SAMPLE=300]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from scipy.stats import binomtest

_ROOT = Path(__file__).parent.parent
_NO_TEST = 33
#: What mutmut's exit codes mean.
_KILLED: dict[int | None, str] = {1: "failed a test", 3: "broke a test", 36: "timeout", 24: "timeout", -24: "timeout"}
_ALIVE: dict[int | None, str] = {0: "survived", _NO_TEST: "no test", None: "not run"}


def main() -> None:
    """Make the mutants, run a sample, print the share and the survivors; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    _mutmut(options.jobs, ["evoray.selection.smallest.*"])  # makes all mutants, and learns which test reaches which
    names = sorted(_verdicts())
    sample = sorted(random.Random(options.seed).sample(names, min(options.sample, len(names))))
    reached = json.loads((_ROOT / "mutants" / "mutmut-stats.json").read_text())["tests_by_mangled_function_name"]
    _mutmut(options.jobs, [name for name in sample if reached.get(name.rpartition("__mutmut_")[0])])
    verdicts = _verdicts()
    found = {name: verdicts[name] if reached.get(name.rpartition("__mutmut_")[0]) else _NO_TEST for name in sample}
    words = {**_ALIVE, **_KILLED}
    counts = Counter(words.get(code, f"exit code {code}") for code in found.values())
    killed = sum(code in _KILLED for code in found.values())
    interval = binomtest(killed, len(found)).proportion_ci(method="wilson")
    for name, code in found.items():
        if code not in _KILLED:
            print(f"{words.get(code, code)}: {name}")
    share = {"value": killed / len(found), "low": interval.low, "high": interval.high}
    print(json.dumps({"mutants": len(names), "sample": len(found), "killed": share, "verdicts": dict(counts)}))


def _mutmut(jobs: int, names: list[str]) -> None:
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(jobs), *names]
    with (_ROOT / "build" / "mutants.log").open("ab") as log:
        subprocess.run(command, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)


def _verdicts() -> dict[str, int | None]:
    """Exit code of the tests under each mutant; None where it was not run."""
    found: dict[str, int | None] = {}
    for path in sorted((_ROOT / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


if __name__ == "__main__":
    main()
