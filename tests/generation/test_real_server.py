"""An OpenAI-compatible server of others, `transformers serve`, with the embedded model behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evoray.config_file import load_config
from evoray.engine.session import Session
from evoray.generating import generate
from evoray.generation.endpoint import Endpoint, ask_all
from evoray.generation.prompts import Answer, Prompt
from evoray.generation.shape import Refused
from evoray.generation.writer import Writer
from evoray.models.loading import load_for_inference, load_tokenizer
from evoray.models.reference import resolve_model
from tests.processes import free_ports
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task

pytestmark = pytest.mark.slow

_SECONDS = 300.0  # to load the model, on a machine that does other things too
TOKENS = 24


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's, which lives as long as this module's tests."""
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("transformers")), "serve", resolve_model("smollm2")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("wb") as stream:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    try:
        deadline = time.monotonic() + _SECONDS
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


def test_its_answers_are_those_of_the_model_in_this_process(url: str) -> None:
    texts = ["What is the capital of France?", "Count from one to five.", "Name a colour."]
    prompts = [Prompt(number=number, text=text, examples=(), seed=number) for number, text in enumerate(texts)]
    endpoint = Endpoint(
        url=url, model=resolve_model("smollm2"), key_env=None, temperature=0.0, top_p=1.0, max_new_tokens=TOKENS,
        timeout=_SECONDS, attempts=1, concurrency=2, system="You answer in one sentence.",
    )  # fmt: skip
    found: dict[int, Answer | Refused] = {}
    ask_all(endpoint, prompts, lambda _: True, lambda prompt, answer: found.update({prompt.number: answer}))
    writer = Writer(temperature=0.0, top_p=1.0, max_new_tokens=TOKENS, system=endpoint.system)
    model = load_for_inference("smollm2", None, None).to(torch.float32)
    for ours, prompt in zip(writer.answers(model, load_tokenizer("smollm2"), prompts), prompts, strict=True):
        theirs = found[prompt.number]
        assert isinstance(theirs, Answer)
        assert (theirs.text, theirs.prompt_tokens) == (ours.text, ours.prompt_tokens)
        assert 0 < theirs.completion_tokens <= TOKENS


@pytest.mark.ray
def test_two_workers_generate_from_it(url: str, tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    settings = {
        "source": "endpoint", "model": resolve_model("smollm2"), "url": url, "key_env": None, "samples": 8,
        "unit_requests": 2, "examples": 2, "max_new_tokens": 2 * TOKENS, "concurrency": 2, "timeout": _SECONDS,
    }  # fmt: skip
    config = write_run_config(
        write_task(tmp_path), tiny_model_dir, tmp_path / "run", generation=settings, cluster={"workers": 2}
    )
    facts = generate(load_config(config, ["pool=null"])).facts
    assert facts["answered"] == facts["requests"] == facts["attempts"] == 8
    assert facts["samples"] + facts["refused"] >= 8
    assert facts["kept"] == facts["samples"] - facts["dropped"]
    assert facts["prompt_tokens"] > 8 * 20 and 8 <= facts["completion_tokens"] <= 8 * 2 * TOKENS
