"""Run one stage as a job on a running Ray cluster.

Submit it from the project's folder, or with `--working-dir jobs` and `python run_stage.py`, with

    ray job submit --working-dir . -- python jobs/run_stage.py STAGE ...

STAGE is run, plan, compare, generate, featurize, select, score, train or evaluate; what follows are the options of
`evoray STAGE`. One program for all: as jobs they differ in nothing but that name. The driver joins the cluster that the
job was submitted to; a job that was cut short goes on when it is submitted again. Exit codes: 0 done, 2 wrong input, 1
a stage that could not finish.
"""

from __future__ import annotations

import sys

from evoray.driver import main

if __name__ == "__main__":
    main(sys.argv[1:])
