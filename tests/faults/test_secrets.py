"""Keys that are in the environment alone stay there: nothing that evoray or its Ray writes holds them."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.generation.server import good, serving
from tests.killed_run import Job
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAMES = ("ENDPOINT_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY")


@pytest.fixture
def canaries() -> dict[str, str]:
    """Keys that occur nowhere else."""
    return {name: f"canary-{secrets.token_hex(12)}" for name in NAMES}


@pytest.fixture
def of_ray() -> Iterator[Path]:
    """Where Ray keeps its logs; its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="evo-") as folder:
        yield Path(folder)


def holding(folders: list[Path], canaries: dict[str, str]) -> list[str]:
    """Files that hold a key, in any part of their bytes or name."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return [
        f"{path}: {name}"
        for path in files
        for name, value in canaries.items()
        if value.encode() in path.read_bytes() or value in path.name
    ]


async def refusing(_number: int, request: web.Request) -> web.StreamResponse:
    """As servers do that answer with what they were sent."""
    return web.Response(status=401, text=f"wrong key {request.headers['Authorization']}")


@pytest.mark.parametrize(("behaviour", "code"), [(good, 0), (refusing, 2)], ids=["answered", "refused"])
def test_no_file_and_no_message_holds_a_key(
    behaviour: object,
    code: int,
    canaries: dict[str, str],
    of_ray: Path,
    mark: dict[str, str],
    tmp_path: Path,
    tiny_model_dir: Path,
) -> None:
    task, out = write_task(tmp_path / "task"), tmp_path / "out"
    environment = {**mark, **canaries, "RAY_TMPDIR": str(of_ray), "WANDB_MODE": "disabled"}
    with serving(behaviour) as server:  # type: ignore[arg-type]
        generation = {"source": "endpoint", "model": "writer", "url": server.url, "key_env": NAMES[0], "samples": 8}
        config = write_run_config(task, tiny_model_dir, out, rounds=1, generation=generation)
        job = Job(arguments=("generate", str(config)), environment=environment, output=tmp_path / "output.txt")
        assert job.start().wait(600) == code, job.said()
        assert server.headers[0]["Authorization"] == f"Bearer {canaries[NAMES[0]]}", "the key was used"
    assert holding([tmp_path, of_ray], canaries) == []
