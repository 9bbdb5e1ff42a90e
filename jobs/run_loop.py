"""Run the whole loop as a job on a running Ray cluster: `run_stage.py run`, by a shorter name.

ray job submit --working-dir . -- python jobs/run_loop.py CONFIG [--out DIR] [--set KEY=VALUE ...] [--anew]
"""

from __future__ import annotations

import sys

from evoray.driver import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
