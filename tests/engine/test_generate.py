"""Rounds whose candidates a generator writes: a real server on loopback, real Ray workers, a tiny model."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from evoray.config import GenerationConfig
from evoray.config_file import load_config
from evoray.engine.generate import spent
from evoray.engine.generators import GenerateJob
from evoray.engine.session import Session
from evoray.engine.units import UnitResult
from evoray.errors import ConfigError, StageError
from evoray.generating import Generated, generate
from evoray.generation.prompts import Answer
from evoray.pipeline import run
from evoray.records import Message, Row
from evoray.storage import Storage
from tests.generation.server import answered, good, sample, serving
from tests.tiny_run import write_run_config
from tests.tiny_task import write_task


def config(folder: Path, learner: Path, url: str | None, **generation: Any) -> Path:
    settings = {"source": "endpoint", "model": "writer", "url": url, "key_env": None, "samples": 24, "unit_requests": 6}
    return write_run_config(
        write_task(folder), learner, folder / "run",
        generation={**settings, **generation}, evaluation={"control": False}, cluster={"workers": 2},
    )  # fmt: skip


def write(path: Path, *overrides: str) -> Generated:
    """One round of candidates, without a loop around it, and beside no pool."""
    return generate(load_config(path, ["pool=null", *overrides]))


def record(out: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "rounds" / f"{number:04d}" / "generated.json").read_text())
    return found


def candidates(out: Path, number: int = 1) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "generated" / f"round-{number:04d}.parquet").to_pylist()
    return rows


def refused(out: Path) -> Counter[str]:
    """Samples that were set aside, by reason."""
    found: Counter[str] = Counter()
    for path in (out / "quarantine").glob("generated-*/*.parquet"):
        found.update(pq.read_table(path)["reason"].to_pylist())
    return found


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "target" / f"{split}.jsonl").read_text().splitlines()]


def test_candidates_have_the_targets_shape_and_their_provenance(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    with serving(good) as server:
        path = config(tmp_path, tiny_model_dir, server.url)
        found = write(path)
        again = write(path)
    assert len(server.requests) == 24  # nothing is asked twice
    assert again == found
    facts = found.facts
    assert facts["answered"] == facts["samples"] == 24 and facts["skipped"] == facts["refused"] == 0
    assert facts["prompt_tokens"] == 24 * 30 and facts["completion_tokens"] == 24 * 12
    rows = candidates(tmp_path / "run")
    assert found.path == str(tmp_path / "run" / "generated" / "round-0001.parquet")
    assert len(rows) == found.rows == 24 - facts["dropped"] > 15
    align = {row["id"] for row in rows_of(tmp_path, "align")}
    for row in rows:
        a, b = map(int, row["instruction"].rstrip("?").split("+"))
        assert row["output"] == row["answer"] == str(a + b) in row["choices"]
        assert row["source"] == "generated/writer" and row["generation_tokens"] == 42 and row["generation_round"] == 1
        assert len(row["generation_examples"]) == 3 and set(row["generation_examples"]) <= align
    # Of the target, the generator is shown align rows alone.
    shown = {row["instruction"] for row in rows_of(tmp_path, "align")}
    texts = [request["messages"][-1]["content"] for request in server.requests]
    asked = {line.removeprefix("Question: ") for text in texts for line in text.splitlines() if "Question" in line}
    assert asked and asked <= shown


def test_two_workers_write_what_one_writes(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    found = []
    with serving(good) as server:
        for workers in (1, 2):
            write(config(tmp_path / str(workers), tiny_model_dir, server.url), f"cluster.workers={workers}")
            found.append(candidates(tmp_path / str(workers) / "run"))
    assert found[0] == found[1]


def test_a_model_in_the_workers_writes_the_same_again(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    """A random model writes no sample: what it writes is looked at where it was set aside."""
    settings = {"source": "model", "model": str(tiny_model_dir), "max_new_tokens": 16, "examples": 1, "samples": 8}
    texts = []
    for time in ("first", "second"):
        path = config(tmp_path / time, tiny_model_dir, None, **settings)
        facts = write(path, "generation.unit_requests=4").facts
        assert facts["answered"] == 8 and facts["completion_tokens"] > 0
        files = (tmp_path / time / "run" / "quarantine").glob("generated-*/*.parquet")
        rows = [row for file in sorted(files) for row in pq.read_table(file).to_pylist()]
        texts.append(sorted((row["id"], row["reason"], row["detail"]) for row in rows))
    assert texts[0] == texts[1] and len({detail for _, _, detail in texts[0]}) > 1


def test_what_was_paid_for_is_never_asked_again(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    """The endpoint breaks in the middle: the job stops, and goes on later with what is missing."""
    whole = threading.Event()

    async def fragile(_number: int, request: web.Request) -> web.StreamResponse:
        if len(served) == 10 and not whole.is_set():
            return web.Response(status=503)
        served.append((await request.json())["seed"])
        return answered(sample(served[-1]))

    served: list[int] = []
    with serving(fragile) as server:
        path = config(tmp_path, tiny_model_dir, server.url, attempts=1, concurrency=2)
        with pytest.raises(StageError, match="status 503, at each of 1 attempts"):
            write(path)
        assert len(served) == 10
        whole.set()
        facts = write(path).facts
    assert len(served) == len(set(served)) == facts["answered"] == 24
    assert not list((tmp_path / "run" / "generated").glob("*/answers/*"))


def test_a_budget_of_requests_ends_in_the_middle_and_what_there_is_stays(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    with serving(good) as server:
        facts = write(config(tmp_path, tiny_model_dir, server.url, max_requests=17)).facts
    assert len(server.requests) == facts["answered"] == 17
    assert facts["skipped"] == 7 and facts["kept"] > 10


def test_a_budget_of_tokens_is_not_passed(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    with serving(good) as server:
        facts = write(config(tmp_path, tiny_model_dir, server.url, max_tokens=600, max_new_tokens=12)).facts
    # 42 a request. Until the first answer is here the length of prompts is not known.
    assert 12 <= len(server.requests) == facts["answered"] <= 600 // 42 + 2


def test_every_kind_of_rubbish_is_set_aside_with_its_reason(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    path = config(tmp_path, tiny_model_dir, "http://127.0.0.1/v1", concurrency=1, samples=12)
    test = rows_of(tmp_path, "test")[0]
    options = " | ".join(test["choices"])
    leaked = f"Question: {test['instruction']}\nOptions: {options}\nResponse: {test['answer']}"
    same, half = sample(8), "Question: half a"
    texts = ["I would rather not.", sample(7).replace("+", "\x07"), same, same, same.lower(), leaked, half]

    async def behaviour(number: int, _request: web.Request) -> web.StreamResponse:
        if number < len(texts):
            return answered(texts[number], cut_off=texts[number] == half)
        bad = {7: b'{"choices": [', 8: b"x" * 10 * 2**20}
        return web.Response(body=bad[number]) if number in bad else answered("no")

    with serving(behaviour) as server:
        facts = write(path, f"generation.url={server.url}", "cluster.workers=1").facts
    reasons = {
        "control characters": 1, "duplicate": 3, "no response, cut off": 1, "answer not of the protocol": 1,
        "answer too large": 1, "no sample": 4,
    }  # fmt: skip
    assert facts["reasons"] == refused(tmp_path / "run") == reasons
    assert len(candidates(tmp_path / "run")) == facts["kept"] == 1


def test_the_same_answer_a_hundred_times_is_one_sample(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered(sample(3))

    with serving(behaviour) as server:
        facts = write(config(tmp_path, tiny_model_dir, server.url, samples=100)).facts
    assert (facts["samples"], facts["kept"], facts["reasons"]) == (100, 1, {"duplicate": 99})


def test_listed_options_are_no_part_of_a_question_that_a_generator_sees(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    """Models are asked with the options listed; samples have them as a part of their own."""
    with serving(good) as server:
        path = config(tmp_path, tiny_model_dir, server.url, samples=6)
        facts = write(path, "evaluation.list_options=true").facts
    assert facts["samples"] == 6
    for request in server.requests:
        assert request["messages"][-1]["content"].count("Options") == 3  # one an example


def test_attempts_that_failed_count_in_the_next_start_too(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    with serving(behaviour) as server:
        path = config(tmp_path, tiny_model_dir, server.url, samples=6, attempts=1, concurrency=1, max_requests=3)
        for _ in range(3):
            with pytest.raises(StageError, match="status 500"):
                write(path, "cluster.workers=1")
        assert spent(Storage(tmp_path / "run")) == (3, 0)
        facts = write(path, "cluster.workers=1").facts
    assert len(server.requests) == 3 and (facts["answered"], facts["skipped"], facts["attempts"]) == (0, 6, 3)


def test_candidates_of_a_run_are_not_overwritten_by_others(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    with serving(good) as server:
        path = config(tmp_path, tiny_model_dir, server.url, samples=6)
        found = write(path)
        record = tmp_path / "run/rounds/0001/generated.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps(dict(found.facts)))
        assert write(path) == found
        with pytest.raises(ConfigError, match="other settings"):
            write(path, "generation.temperature=0.1")
    assert len(server.requests) == 6


class Align:
    """Three questions with free responses."""

    identity = "made up"

    def read(self) -> list[Row]:
        turns = [(Message("user", f"What is {n}?"), Message("assistant", f"It is {n + 1}.")) for n in range(3)]
        return [Row(id=str(n), messages=messages) for n, messages in enumerate(turns)]


def judged(folder: Path, answer: Answer, name: str = "0123456789abcdef", **settings: Any) -> UnitResult:
    """One unit of one request to which the answer is stored already."""
    storage = Storage(folder)
    job = GenerateJob(
        align=Align(),  # type: ignore[arg-type]
        config=GenerationConfig(source="endpoint", url="http://127.0.0.1:1/v1", key_env=None, **settings),
        round=1, seed=0, requests=1, storage=storage, prefix=f"generated/{name}", workers=1, purse=None,
    )  # fmt: skip
    storage.write_json(job.key(0), {"kind": "Answer", **asdict(answer)})
    return job().compute(0)


TWO = "Question: one?\nResponse: 1\n\nQuestion: two?\nResponse: it is the pl"
OBJECT = '{"question": "one?", "response": "1"}'


@pytest.mark.parametrize(
    ("text", "form", "cut", "kept", "reasons"),
    [
        (TWO, "fields", True, ["1"], ["cut off"]),
        (TWO, "fields", False, ["1", "it is the pl"], []),
        (OBJECT, "json", True, ["1"], []),
        (OBJECT + '{"question": "tw', "json", True, ["1"], ["broken JSON, cut off"]),
    ],
)
def test_of_an_answer_that_was_cut_off_no_half_response_is_kept(
    text: str, form: str, cut: bool, kept: list[str], reasons: list[str], tmp_path: Path
) -> None:
    answer = Answer(text=text, cut_off=cut, prompt_tokens=1, completion_tokens=1)
    found = judged(tmp_path, answer, form=form)
    assert found.table["output"].to_pylist() == kept
    assert [one.reason for one in found.quarantined] == reasons


def test_samples_of_two_generators_have_ids_of_their_own(tmp_path: Path) -> None:
    """What one wrote may be the pool of another."""
    answer = Answer(text="Question: one?\nResponse: 1", cut_off=False, prompt_tokens=1, completion_tokens=1)
    ids = {judged(tmp_path, answer, name=name).table["id"][0].as_py() for name in ("a" * 16, "b" * 16)}
    assert ids == {"generated-0001-aaaaaaaa-000000-0", "generated-0001-bbbbbbbb-000000-0"}


@pytest.mark.soak  # the run below has two rounds, too
def test_two_rounds_beside_a_pool(tmp_path: Path, tiny_model_dir: Path, ray_session: Session) -> None:
    with serving(good) as server:
        result = run(load_config(config(tmp_path, tiny_model_dir, server.url, samples=16)))
    assert len(server.requests) == 32
    assert [arm.name for arm in result.summary.arms] == ["base", "round 1", "round 2"]
    out = tmp_path / "run"
    chosen = [
        pq.read_table(out / "rounds" / f"000{number}" / "selected.parquet")["id"].to_pylist() for number in (1, 2)
    ]
    assert not set(chosen[0]) & set(chosen[1])
    new = {row["id"] for number in (1, 2) for row in candidates(out, number)}
    assert new.intersection([*chosen[0], *chosen[1]])
    assert {row["generation_round"] for row in candidates(out, 2)} == {2}
    # Of the pool, what round 1 featurised is known in round 2.
    assert record(out, 2)["kept"] == len(candidates(out, 2)) > 8
    assert [(one.requests, one.kept) for one in result.summary.generated] == [
        (16, len(candidates(out, n))) for n in (1, 2)
    ]
    assert "| 1 | 16 | 16 | 16 |" in (out / "report.md").read_text()


def test_a_generator_that_dries_up_ends_the_run_and_the_best_model_stands(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    async def behaviour(number: int, request: web.Request) -> web.StreamResponse:
        return answered(sample((await request.json())["seed"]) if number < 6 else "no more")

    with serving(behaviour) as server:
        path = config(tmp_path, tiny_model_dir, server.url, samples=6)
        path.write_text(path.read_text().replace("pool: pool.jsonl\n", ""))
        result = run(load_config(path, ["selection.k=6"]))
    assert [arm.name for arm in result.summary.arms] == ["base", "round 1"]
    assert "no usable candidate left" in str(result.summary.ending)
    assert [one.kept for one in result.summary.generated] == [6, 0]
    assert result.summary.quarantine["generated: no sample"] == 6
    assert "The run ended early" in (tmp_path / "run" / "report.md").read_text()


def test_nothing_but_rubbish_and_no_pool_is_a_clear_end(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session
) -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("As a language model I cannot.")

    with serving(behaviour) as server:
        path = config(tmp_path, tiny_model_dir, server.url)
        path.write_text(path.read_text().replace("pool: pool.jsonl\n", ""))
        with pytest.raises(StageError, match="not one usable sample from the generator in round 1"):
            run(load_config(path))
    assert refused(tmp_path / "run") == {"no sample": 24}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": None}, "no url"),
        ({"url": "ftp://host/v1"}, "http:// or https://"),
        ({"url": "http://user:secret@host/v1"}, "user name or a key"),
        ({"key_env": "sk-0123456789abcdef"}, "never the key"),
        ({"source": "model", "url": None, "max_tokens": 5}, "max_tokens with source: model"),
        ({"prompt": "{{ nonsense }}"}, "nonsense"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_asked(
    tmp_path: Path, tiny_model_dir: Path, ray_session: Session, settings: dict[str, Any], message: str
) -> None:
    with serving(good) as server:
        path = config(tmp_path, tiny_model_dir, **{"url": server.url, **settings})
        with pytest.raises(ConfigError, match=message) as caught:
            write(path)
    assert not server.requests
    assert "secret" not in str(caught.value) and "0123456789abcdef" not in str(caught.value)
