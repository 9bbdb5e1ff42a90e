"""Compare selectors as a job on a running Ray cluster: `run_stage.py compare`, by a shorter name.

    ray job submit --working-dir . -- python jobs/run_comparison.py CONFIG [--out DIR] [--set KEY=VALUE ...]

Trainings run side by side as far as the cluster's actors allow (`parallel`).
"""

from __future__ import annotations

import sys

from evoray.driver import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
