"""The files for DeepSpeed are what evoray itself gives it."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from evoray.config import TrainingConfig
from evoray.training.zero import engine_settings
from tests.cluster_configs.files import FOLDER


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_file_of_a_stage_is_what_evoray_makes_of_its_defaults(stage: Literal[1, 2, 3]) -> None:
    made = engine_settings(TrainingConfig(zero_stage=stage))
    kept = json.loads((FOLDER / f"deepspeed-zero{stage}.json").read_text())
    assert kept == made, f"write this into the file:\n{json.dumps(made, indent=2)}"
