"""A generator behind an OpenAI-compatible endpoint: `POST {url}/chat/completions`.

Many requests are under way at once. One that fails for a reason that passes (no connection, a timeout, status 408, 409,
425, 429 or 5xx) is tried again, after the pause that the server asks for or one that doubles. What comes back is
data from outside: its size is bounded, its numbers are checked, and an answer that is not of the protocol is refused
with its reason, while all others go on. The key comes from the environment and appears in no message.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from evoray.errors import ConfigError, StageError
from evoray.generation.prompts import Answer, Prompt, turns
from evoray.generation.shape import Refused

#: Bytes of one answer; a sample has a few thousand.
MAX_BYTES = 4 * 2**20
#: Seconds that a server may ask to wait.
LONGEST_PAUSE = 120.0
_SHORTEST_KEY = 8  # bytes; what is shorter is part of other words too
_MOST_TOKENS = 2**31  # of one answer; a server that counts more does not count tokens
_CHARACTERS = 4  # of a token, where the server does not count them
_AGAIN = 0.25  # seconds until a request that has to wait for the budget asks again
_PASSING = {408, 409, 425, 429}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go, and how."""

    url: str  # up to and including /v1, say
    model: str
    key_env: str | None  # name of the environment variable that holds the key; None: no key is sent
    temperature: float
    top_p: float
    max_new_tokens: int
    timeout: float  # seconds of one attempt
    attempts: int
    concurrency: int  # requests under way
    interval: float = 0.0  # seconds between the starts of two requests
    system: str | None = None

    def headers(self) -> dict[str, str]:
        """Raises ConfigError where the key is not in the environment, or where no header can hold it."""
        if self.key_env is None:
            return {}
        key = os.environ.get(self.key_env, "").strip()  # of what was read from a file, the end of the line
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"an environment variable {self.key_env} with characters that no header can hold",
                "the endpoint's key, of printable ASCII characters",
                f"export {self.key_env} again",
            )
        if not key:
            raise ConfigError(
                f"no environment variable {self.key_env} in the process that sends the requests",
                "the endpoint's key",
                f"export {self.key_env} before Ray starts, or set generation.key_env: null for a server without keys",
            )
        return {"Authorization": f"Bearer {key}"}

    def address(self) -> httpx2.URL:
        """Where requests go. Raises ConfigError for a URL that is none."""
        try:
            address = httpx2.URL(f"{self.url.rstrip('/')}/chat/completions")
            if address.host and (address.port or 0) < 2**16:
                return address
            problem = "no host, or no port"
        except (httpx2.InvalidURL, ValueError) as error:
            problem = str(error)
        raise ConfigError(
            f"generation.url = {self.url!r}: {problem}", "a URL such as http://127.0.0.1:8000/v1", "correct it"
        )

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """The request."""
        return {
            "model": self.model,
            "messages": [asdict(turn) for turn in turns(prompt.text, self.system)],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
            "seed": prompt.seed,
        }


#: Of a prompt: whether its request may still be sent, asked before every attempt. None: not now, but perhaps later.
Allowed = Callable[[Prompt], bool | None]
#: What came back, as soon as it did.
Received = Callable[[Prompt, Answer | Refused], None]
#: Told of every attempt that brought no answer.
Failed = Callable[[Prompt], None]


class Pace:
    """Starts of requests, so far apart. One for all requests of a process."""

    def __init__(self, interval: float) -> None:
        self._interval, self._next = interval, 0.0

    async def turn(self) -> None:
        """Wait for it."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._interval
        await asyncio.sleep(start - now)


def ask_all(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    allowed: Allowed,
    received: Received,
    failed: Failed = lambda _: None,
    pace: Pace | None = None,
) -> None:
    """Send all requests that are allowed, and hand over what comes back, each at once.

    Raises ConfigError for a request that the server refuses for good, StageError for one that failed at all attempts:
    after what had been sent by then has come back.
    """
    asyncio.run(_Asking(endpoint, allowed, received, failed, pace or Pace(endpoint.interval)).all(prompts))


class _PassingError(Exception):
    """A failure that may pass; `pause`: seconds that the server asks for."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class _Asking:
    """Requests to one endpoint."""

    def __init__(self, endpoint: Endpoint, allowed: Allowed, received: Received, failed: Failed, pace: Pace) -> None:
        self.endpoint, self.allowed, self.received, self.failed, self.pace = endpoint, allowed, received, failed, pace
        self.given_up = False  # one failed for good: no further request is paid for; those under way are awaited

    async def all(self, prompts: Sequence[Prompt]) -> None:
        most, free = self.endpoint.concurrency, asyncio.Semaphore(self.endpoint.concurrency)
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most)
        headers, address = self.endpoint.headers(), self.endpoint.address()

        async def one(client: httpx2.AsyncClient, prompt: Prompt) -> None:
            async with free:
                try:
                    answer = await self._ask(client, address, prompt)
                except BaseException:
                    self.given_up = True
                    raise
                if answer is not None:
                    self.received(prompt, answer)

        async with httpx2.AsyncClient(headers=headers, timeout=self.endpoint.timeout, limits=limits) as client:
            outcomes = await asyncio.gather(*(one(client, prompt) for prompt in prompts), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _ask(self, client: httpx2.AsyncClient, address: httpx2.URL, prompt: Prompt) -> Answer | Refused | None:
        """None where the request is not allowed (any more)."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(self.endpoint.attempts),
            wait=_pause,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    if not await self._may_send(prompt):
                        return None
                    try:
                        return await _attempt(client, self.endpoint, address, prompt)
                    except (_PassingError, ConfigError):
                        self.failed(prompt)
                        raise
        except _PassingError as error:
            raise StageError(
                f"{self.endpoint.url}: {error}, at each of {self.endpoint.attempts} attempts",
                "an endpoint that answers",
                "start it, or lower generation.concurrency or requests_per_minute; the same command then goes on",
            ) from error
        raise AssertionError("tenacity ends by result or error")

    async def _may_send(self, prompt: Prompt) -> bool:
        """Ask for it, and await its turn. What is not allowed takes no turn of others."""
        while not self.given_up and (allowed := self.allowed(prompt)) is not False:
            if allowed:
                await self.pace.turn()
                return not self.given_up
            await asyncio.sleep(_AGAIN)
        return False


async def _attempt(
    client: httpx2.AsyncClient, endpoint: Endpoint, address: httpx2.URL, prompt: Prompt
) -> Answer | Refused:
    try:
        request = client.stream("POST", address, json=endpoint.body(prompt))
        # httpx bounds each wait for some bytes; a server may go on for ever, a byte at a time.
        async with asyncio.timeout(endpoint.timeout), request as response:
            data = _without_key(await _read(response), response.request.headers)
    except (TimeoutError, httpx2.TransportError, httpx2.DecodingError) as error:
        raise _PassingError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
    if response.status_code in _PASSING or response.status_code >= 500:
        raise _PassingError(f"status {response.status_code}", _asked_pause(response))
    if response.status_code != 200:
        raise ConfigError(
            f"{endpoint.url}: status {response.status_code}: {_excerpt(data)}",
            "a request that the endpoint takes",
            "check generation.url, model and the key",
        )
    if data is None:
        reason = Refused(reason="answer too large", detail=f"more than {MAX_BYTES} bytes")
        return replace(reason, completion_tokens=endpoint.max_new_tokens)
    return _parse(data, prompt)


async def _read(response: httpx2.Response) -> bytes | None:
    """The body, None where it is too large."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            return None
    return b"".join(parts)


def _without_key(data: bytes | None, sent: Mapping[str, str]) -> bytes | None:
    """What a server said, without the key that it was sent: some repeat it in errors, which are shown and logged."""
    key = sent.get("Authorization", "").removeprefix("Bearer ").encode()
    return data.replace(key, b"[key]") if data and len(key) >= _SHORTEST_KEY else data


def _parse(data: bytes, prompt: Prompt) -> Answer | Refused:
    """Tokens that the server does not count are estimated: an answer that costs nothing would know no budget."""
    try:
        body = json.loads(data)
        (choice, *_) = body["choices"]
        text, usage = choice["message"]["content"], body.get("usage") or {}
        read, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        if not isinstance(text, str):
            refused = Refused(reason="answer without text", detail=_excerpt(data))
            return replace(refused, prompt_tokens=read or 0, completion_tokens=written or 0)
        return Answer(
            text=text.encode("utf-8", "replace").decode(),  # JSON can spell out halves of characters
            cut_off=choice.get("finish_reason") == "length",
            prompt_tokens=len(prompt.text) // _CHARACTERS if read is None else read,
            completion_tokens=len(text) // _CHARACTERS if written is None else written,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Refused(reason="answer not of the protocol", detail=_excerpt(data))


def _count(value: Any) -> int | None:
    """A number of tokens as a server gives it; None for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < _MOST_TOKENS else None


def _excerpt(data: bytes | None) -> str:
    """The beginning of what a server said, printable; what looks like a key, of whomever, is left out."""
    text = (data or b"")[:2000].decode("utf-8", "replace")
    return re.sub(r"\b(sk|key|Bearer)[-_ ][\w-]{6,}", r"\1-...", ascii(text)[1:-1])[:300]


def _asked_pause(response: httpx2.Response) -> float:
    try:
        asked = float(response.headers.get("retry-after", ""))
    except ValueError:  # none, a date, or nothing at all
        return 0.0
    return min(max(asked, 0.0), LONGEST_PAUSE) if math.isfinite(asked) else 0.0


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause if isinstance(error, _PassingError) else 0.0
    return max(asked, wait_exponential_jitter(initial=0.5, max=30.0, jitter=0.5)(state))
