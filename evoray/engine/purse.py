"""What generation may still cost: one actor that all workers ask before each attempt at a request.

Tokens of a request are known when its answer is here: until then it is counted with the most that it may write and
the mean of what prompts read so far. So the budget of requests is kept exactly, that of tokens but for the length of
prompts; and while others hold the rest, a request waits, since most write less than they may.
"""

from __future__ import annotations

from typing import Any

import ray


class _Purse:
    def __init__(self, requests: int | None, tokens: int | None, reserve: int) -> None:
        self.requests, self.tokens, self.reserve = requests, tokens, reserve
        self.under_way: dict[int, int] = {}
        self.read = self.answered = 0

    def take(self, request: int) -> bool | None:
        """Whether an attempt at a request may be made; if so it is paid. None: not while others are under way."""
        mean = self.read // self.answered if self.answered else 0
        if self.requests is not None and self.requests < 1:
            return False
        if self.tokens is not None:
            if self.tokens < self.reserve + mean:
                return False
            if self.tokens < self.reserve + mean + sum(held for one, held in self.under_way.items() if one != request):
                return None
        if self.requests is not None:
            self.requests -= 1
        self.under_way[request] = self.reserve + mean
        return True

    def settle(self, request: int, read: int, written: int) -> None:
        """An answer came, of so many tokens. Of a request that is not under way they are counted already."""
        if self.under_way.pop(request, None) is None:
            return
        self.read, self.answered = self.read + read, self.answered + 1
        if self.tokens is not None:
            self.tokens -= read + written


class Purse:
    """A handle, which travels."""

    def __init__(self, requests: int | None, tokens: int | None, reserve: int) -> None:
        self._actor: Any = ray.remote(num_cpus=0)(_Purse).remote(requests, tokens, reserve)

    def take(self, request: int) -> bool | None:
        """See the actor's."""
        allowed: bool | None = ray.get(self._actor.take.remote(request))
        return allowed

    def settle(self, request: int, read: int, written: int) -> None:
        """See the actor's. Answered at once: the next `take` of this process comes after it."""
        self._actor.settle.remote(request, read, written)

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)
