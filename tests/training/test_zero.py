"""What stands around DeepSpeed."""

from __future__ import annotations

import subprocess
import sys

#: In a process of its own, where nothing has imported DeepSpeed before.
_IMPORTS = """
import importlib.util, sys
from evoray.training.zero import import_deepspeed
assert importlib.util.find_spec("mlflow"), "the test needs it installed"
deepspeed = import_deepspeed()
assert deepspeed.initialize and not [name for name in sys.modules if name.partition(".")[0] == "mlflow"]
import mlflow
assert mlflow.__version__ and import_deepspeed() is deepspeed and sys.modules["mlflow"] is mlflow
"""


def test_deepspeed_brings_no_mlflow_along_and_leaves_it_to_others() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
