"""A real server on loopback that speaks the chat protocol, well or badly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

#: (place of the request among all, the request) to what is sent back.
Behaviour = Callable[[int, web.Request], Awaitable[web.StreamResponse]]


def answered(text: str, *, cut_off: bool = False) -> web.Response:
    """A good answer."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length" if cut_off else "stop"}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": 12}})


def sample(seed: int) -> str:
    """A sum in the form of the tiny task's target, of numbers that the target does not have."""
    a, b = 100 + seed % 900, seed // 900 % 1000
    return f"Question: {a}+{b}?\nOptions: {a + b} | {a + b + 1} | {a - b - 1}\nResponse: {a + b}"


async def good(_number: int, request: web.Request) -> web.StreamResponse:
    """A sample by the request's seed."""
    return answered(sample((await request.json())["seed"]))


@dataclass
class Server:
    """What was asked of it."""

    behaviour: Behaviour
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request as it is told."""
        number = len(self.requests)
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.behaviour(number, request)
        finally:
            self.under_way -= 1


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Server]:
    """The server, until the end of the block."""
    server, ready, loop = Server(behaviour), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=2**24)
        application.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
