from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from evoray.errors import ConfigError, EvorayError, StageError
from evoray.generation.endpoint import MAX_BYTES, Endpoint, Pace, ask_all
from evoray.generation.prompts import Answer, Prompt
from evoray.generation.shape import Refused
from tests.generation.server import answered, serving

ENDPOINT = Endpoint(
    url="", model="writer", key_env=None, temperature=0.7, top_p=0.9, max_new_tokens=64, timeout=20, attempts=4,
    concurrency=8,
)  # fmt: skip


def prompts(count: int) -> list[Prompt]:
    return [Prompt(number=number, text=f"prompt {number}", examples=(), seed=number) for number in range(count)]


def ask(endpoint: Endpoint, count: int, most: int = 10**6) -> dict[int, Answer | Refused]:
    """What came back, by request; at most so many are allowed."""
    found: dict[int, Answer | Refused] = {}
    sent: list[int] = []

    def allowed(prompt: Prompt) -> bool:
        sent.append(prompt.number)
        return len(sent) <= most

    ask_all(endpoint, prompts(count), allowed, lambda prompt, answer: found.update({prompt.number: answer}))
    return found


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are those that the server asks for: what tenacity would wait beside them only costs time."""
    monkeypatch.setattr("evoray.generation.endpoint.wait_exponential_jitter", lambda **_: lambda _state: 0.01)


def test_every_request_is_answered_with_as_many_under_way_as_are_allowed() -> None:
    async def behaviour(_number: int, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return answered("reply to " + (await request.json())["messages"][-1]["content"])

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url + "/", system="be brief"), 40)
    assert found[7] == Answer(text="reply to prompt 7", cut_off=False, prompt_tokens=30, completion_tokens=12)
    assert set(found) == set(range(40)) and len(server.requests) == 40
    assert 1 < server.most_under_way <= 8
    (first,) = (request for request in server.requests if request["seed"] == 0)  # they arrive in any order
    assert first == {
        "model": "writer", "temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 0,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "prompt 0"}],
    }  # fmt: skip
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_failure_that_passes_is_tried_again(status: int) -> None:
    async def behaviour(number: int, _request: web.Request) -> web.StreamResponse:
        if number < 3:
            return web.Response(status=status, text="busy", headers={"Retry-After": "0.05"})
        return answered("at last")

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url, concurrency=1), 2)
    assert [answer.text for answer in found.values() if isinstance(answer, Answer)] == ["at last", "at last"]
    assert len(server.requests) == 5


def test_a_connection_that_breaks_and_a_server_that_hangs_are_tried_again() -> None:
    async def behaviour(number: int, request: web.Request) -> web.StreamResponse:
        if number == 0:
            await asyncio.sleep(30)
        if number == 1:
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            assert request.transport is not None
            request.transport.close()
            return response
        return answered("at last")

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url, timeout=0.5), 1)
    assert found[0] == Answer(text="at last", cut_off=False, prompt_tokens=30, completion_tokens=12)


def test_nobody_there_is_a_clear_error_after_all_attempts() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with pytest.raises(StageError, match=r"ConnectError.* at each of 4 attempts"):
        ask(replace(ENDPOINT, url=f"http://127.0.0.1:{port}/v1"), 3)


def test_a_server_that_stays_broken_ends_the_asking_and_what_was_answered_is_kept() -> None:
    async def behaviour(number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good") if number < 5 else web.Response(status=500)

    found: dict[int, Any] = {}
    with serving(behaviour) as server, pytest.raises(StageError, match="status 500, at each of 4 attempts"):
        endpoint = replace(ENDPOINT, url=server.url, concurrency=1)
        ask_all(endpoint, prompts(50), lambda _: True, lambda prompt, answer: found.update({prompt.number: answer}))
    assert set(found) == set(range(5))
    assert len(server.requests) == 5 + 4  # nothing is asked after that


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_request_that_is_refused_for_good_is_not_tried_again(status: int) -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="no: sk-verysecretkey1234 is not a key")

    with serving(behaviour) as server, pytest.raises(ConfigError, match=f"status {status}: no") as caught:
        ask(replace(ENDPOINT, url=server.url, concurrency=1), 3)
    assert len(server.requests) == 1
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"choices": [{"mess', "answer not of the protocol"),
        (b"", "answer not of the protocol"),
        (b"[]", "answer not of the protocol"),
        (b'{"choices": []}', "answer not of the protocol"),
        (b'{"error": "overloaded"}', "answer not of the protocol"),
        (b"\xff\xfe\x00", "answer not of the protocol"),
        (b"[" * 100_000, "answer not of the protocol"),
        (b'{"choices": [{"message": {"content": null}}]}', "answer without text"),
        (b'{"choices": [{"message": {"content": "' + b"x" * 10 * 2**20 + b'"}}]}', "answer too large"),
    ],
)
def test_an_answer_that_is_none_is_refused_and_the_others_go_on(body: bytes, reason: str) -> None:
    async def behaviour(number: int, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=body) if number == 1 else answered("good")

    assert len(body) < MAX_BYTES or reason == "answer too large"
    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url, concurrency=1), 3)
    assert isinstance(found[1], Refused) and found[1].reason == reason and len(found[1].detail) <= 300
    assert isinstance(found[0], Answer) and isinstance(found[2], Answer)


def test_an_answer_that_was_cut_off_says_so() -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("half a", cut_off=True)

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url), 1)
    assert found[0] == Answer(text="half a", cut_off=True, prompt_tokens=30, completion_tokens=12)


@pytest.mark.parametrize("usage", ["null", "{}", '{"prompt_tokens": -1000000, "completion_tokens": "7"}',
    '{"prompt_tokens": 1e999, "completion_tokens": 100000000000000000000}', '{"prompt_tokens": true}'])  # fmt: skip
def test_tokens_that_a_server_does_not_count_are_estimated(usage: str) -> None:
    """An answer that costs nothing would never end a budget, and one of -1,000,000 tokens would refill it."""

    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return web.Response(text=f'{{"choices": [{{"message": {{"content": "{"free " * 8}"}}}}], "usage": {usage}}}')

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url), 1)
    assert found[0] == Answer(text="free " * 8, cut_off=False, prompt_tokens=2, completion_tokens=10)


def test_an_answer_without_text_costs_what_it_cost() -> None:
    """As of a model that thought to the limit."""

    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        choice = {"message": {"content": None}, "finish_reason": "length"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 500, "completion_tokens": 4096}})

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url), 1)
    assert (found[0].prompt_tokens, found[0].completion_tokens) == (500, 4096)


@pytest.mark.parametrize("asked", ["\u00b2", "nan", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_pause_that_is_none_is_passed_over(asked: str) -> None:
    async def behaviour(number: int, _request: web.Request) -> web.StreamResponse:
        return answered("at last") if number else web.Response(status=429, headers={"Retry-After": asked})

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url), 1)
    assert isinstance(found[0], Answer)


def test_a_request_that_may_not_be_sent_yet_is_sent_later() -> None:
    """As where others hold the rest of the budget."""

    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good")

    asked: list[int] = []

    def allowed(prompt: Prompt) -> bool | None:
        asked.append(prompt.number)
        return True if asked.count(prompt.number) > 2 else None

    found: dict[int, Any] = {}
    with serving(behaviour) as server:
        endpoint = replace(ENDPOINT, url=server.url)
        ask_all(endpoint, prompts(4), allowed, lambda prompt, answer: found.update({prompt.number: answer}))
    assert set(found) == set(range(4)) and len(asked) == 12


class Counting(Pace):
    """Counts turns, and waits for none."""

    def __init__(self) -> None:
        super().__init__(interval=0.0)
        self.turns = 0

    async def turn(self) -> None:
        self.turns += 1


def test_what_may_not_be_sent_takes_no_turn() -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good")

    pace = Counting()
    with serving(behaviour) as server:
        for _ in range(2):  # one pace for several units of a process
            endpoint = replace(ENDPOINT, url=server.url)
            ask_all(endpoint, prompts(20), lambda prompt: prompt.number < 3, lambda *_: None, pace=pace)
    assert pace.turns == len(server.requests) == 6


def test_after_a_refusal_for_good_nothing_more_is_sent() -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    failed: list[int] = []
    with serving(behaviour) as server, pytest.raises(ConfigError, match="status 401"):
        endpoint = replace(ENDPOINT, url=server.url, concurrency=16, interval=0.2)
        ask_all(endpoint, prompts(16), lambda _: True, lambda *_: None, lambda prompt: failed.append(prompt.number))
    assert len(server.requests) == len(failed) == 1


def test_every_attempt_that_failed_is_told_of() -> None:
    async def behaviour(number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good") if number > 2 else web.Response(status=500)

    failed: list[int] = []
    with serving(behaviour) as server:
        endpoint = replace(ENDPOINT, url=server.url, concurrency=1)
        ask_all(endpoint, prompts(2), lambda _: True, lambda *_: None, lambda prompt: failed.append(prompt.number))
    assert failed == [0, 0, 0] and len(server.requests) == 5


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://host:99999/v1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"generation\.url"):
        ask(replace(ENDPOINT, url=url), 1)


def test_no_more_is_sent_than_is_allowed() -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good")

    with serving(behaviour) as server:
        found = ask(replace(ENDPOINT, url=server.url), 30, most=11)
    assert len(found) == len(server.requests) == 11


def test_the_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good")

    with serving(behaviour) as server:
        endpoint = replace(ENDPOINT, url=server.url, key_env="WRITER_KEY")
        monkeypatch.delenv("WRITER_KEY", raising=False)
        with pytest.raises(EvorayError, match="no environment variable WRITER_KEY"):
            ask(endpoint, 1)
        assert not server.requests
        monkeypatch.setenv("WRITER_KEY", "s3cret")
        ask(endpoint, 1)
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(endpoint)


@pytest.mark.parametrize(
    ("key", "sent"), [("s3cret-key\r\n", "Bearer s3cret-key"), ("s3cret\nkey", None), ("s3crét", None)]
)
def test_a_key_of_a_file_is_sent_without_its_end_of_line_and_one_that_no_header_holds_is_refused_unseen(
    key: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behaviour(_number: int, _request: web.Request) -> web.StreamResponse:
        return answered("good")

    monkeypatch.setenv("WRITER_KEY", key)
    with serving(behaviour) as server:
        endpoint = replace(ENDPOINT, url=server.url, key_env="WRITER_KEY")
        if sent is None:
            with pytest.raises(ConfigError, match="no header can hold") as caught:
                ask(endpoint, 1)
            assert "s3cr" not in str(caught.value)
        else:
            ask(endpoint, 1)
            assert server.headers[0]["Authorization"] == sent
