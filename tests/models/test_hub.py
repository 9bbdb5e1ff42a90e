"""Models of a hub: the weights that a run began with are the weights that it goes on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.hub import Hub, serving_hub
from tests.tiny import build_tiny_model

NAME = "someone/tiny"
#: Prints of each reference what it is identified as, and the sum of its weights; or what is wrong with it.
_LOOK = """
import json, sys
from evoray.errors import ModelError
from evoray.models.loading import load_model, load_tokenizer
from evoray.models.reference import identified
for reference in sys.argv[1:]:
    try:
        model = identified(reference)
        load_tokenizer(model.name)
        total = sum(float(one.double().sum()) for one in load_model(model.name).parameters())
        print(json.dumps([*model, total]))
    except ModelError as error:
        print(json.dumps([error.received]))
"""
_RUN = """
import json, sys
import ray
from evoray.engine.events import Events
from evoray.engine.proxy import identify_model
from evoray.storage import Storage
if __name__ == "__main__":
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    print(json.dumps(identify_model(sys.argv[1], Events(Storage(sys.argv[2])))))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving_hub(NAME) as found:
        found.push(build_tiny_model(tmp_path / "first", seed=1))
        yield found


def look(hub: Hub, cache: Path, *references: str) -> list[list[Any]]:
    """What `_LOOK` prints."""
    return python(hub, cache, _LOOK, *references)


def python(hub: Hub, cache: Path, code: str, *arguments: str) -> list[list[Any]]:
    """The lines that a process of its own prints: the hub's address is read when its client is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_directory(hub: Hub, folder: Path, name: str) -> list[Any]:
    """What a run in a directory of this name takes the model for."""
    return python(hub, folder / "cache", _RUN, NAME, str(folder / name))[0]


def test_a_model_is_known_by_its_commit_and_loaded_from_it(hub: Hub, tmp_path: Path) -> None:
    first, old = hub.main, look(hub, tmp_path / "one", NAME)[0]
    assert old[0] == f"{NAME}@{first}"
    second = hub.push(build_tiny_model(tmp_path / "second", seed=2))
    # Another machine, which has nothing in its cache; and the one that has the older commit there.
    for cache in ("other", "one"):
        again, new, named = look(hub, tmp_path / cache, old[0], NAME, f"{NAME}@{second}")
        assert again == old
        assert new == named and new[0] == f"{NAME}@{second}" and new[1] != old[1] and new[2] != old[2]


def test_without_the_hub_the_copy_in_the_cache_is_the_same_model(hub: Hub, tmp_path: Path) -> None:
    known = look(hub, tmp_path / "cache", NAME)[0]
    hub.url = "http://127.0.0.1:9"  # where nobody listens
    again, pinned, (other,) = look(hub, tmp_path / "cache", NAME, known[0], "someone/else")
    assert again == pinned == known
    assert "the hub does not answer (" in other and other.endswith("and no copy is in its cache")


def test_a_run_directory_stays_with_the_commit_that_it_began_with(hub: Hub, tmp_path: Path) -> None:
    first = run_directory(hub, tmp_path, "run")
    assert first[0] == f"{NAME}@{hub.main}"
    hub.push(build_tiny_model(tmp_path / "second", seed=2))
    assert run_directory(hub, tmp_path, "run") == first
    other = run_directory(hub, tmp_path, "another run")
    assert other[0] == f"{NAME}@{hub.main}" and other[1] != first[1]


def test_what_the_hub_has_not_is_said(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    bare = hub.push(tmp_path / "bare")
    wrong = [f"{NAME}@no-such-branch", "someone/else", f"{NAME}@{'0' * 40}", f"{NAME}@{bare}", "someone/.odd/name"]
    for reference, (received,) in zip(wrong, look(hub, tmp_path, *wrong), strict=True):
        assert received.startswith(f"model '{reference}': ") and "\n" not in received
