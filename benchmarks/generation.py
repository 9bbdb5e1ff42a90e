"""How fast is generation: requests under way at once, batches of the embedded model, and removal of near-duplicates?

`concurrency`: samples a second with 16 requests under way over one at a time, against a server on loopback that takes
0.2 s for each answer. `embedded_batch`: samples a second of the embedded model in batches over one prompt at a time,
the same prompts and seeds, in turns. `dedup`: seconds and memory of finding the near-duplicates among a million short
rows, of which one in ten is a copy of another with a word or two changed, in a process of its own; and how many of
those copies were found.

    python benchmarks/generation.py [--only concurrency embedded_batch dedup] [--rows 1000000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
from sinkhorn_measures import cpu_name

DELAY = 0.2  # seconds of one answer
REQUESTS, UNDER_WAY = 96, 16
PROMPTS, NEW_TOKENS = 16, 48
NAMES = ("concurrency", "embedded_batch", "dedup")


def main() -> int:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_dedup(options.rows)))
        return 0
    found: dict[str, Any] = {"cpus": os.cpu_count(), "cpu": cpu_name()}
    if "concurrency" in options.only:
        found["concurrency"] = _concurrency(options.repeats)
    if "embedded_batch" in options.only:
        found["embedded_batch"] = _embedded_batch(options.repeats)
    if "dedup" in options.only:
        command = [sys.executable, __file__, "--child", "--rows", str(options.rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found["dedup"] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))
    return 0


# Requests under way.


def _concurrency(repeats: int) -> dict[str, float]:
    with _server() as url:
        _ask(url, UNDER_WAY, UNDER_WAY)
        runs = [(_ask(url, REQUESTS, UNDER_WAY), _ask(url, REQUESTS // UNDER_WAY, 1)) for _ in range(repeats)]
    many, one = median(run[0] for run in runs), median(run[1] for run in runs)
    return {"ratio": many / one, "samples_per_s": many, "one_at_a_time_per_s": one, "bound": float(UNDER_WAY)}


def _ask(url: str, count: int, concurrency: int) -> float:
    """Samples a second."""
    from evoray.generation.endpoint import Endpoint, ask_all
    from evoray.generation.prompts import Prompt

    endpoint = Endpoint(
        url=url, model="delayed", key_env=None, temperature=1.0, top_p=1.0, max_new_tokens=64, timeout=60, attempts=2,
        concurrency=concurrency,
    )  # fmt: skip
    prompts = [Prompt(number=number, text="write", examples=(), seed=number) for number in range(count)]
    answers: list[Any] = []
    began = time.perf_counter()
    ask_all(endpoint, prompts, lambda _: True, lambda _, answer: answers.append(answer))
    seconds = time.perf_counter() - began
    if len(answers) != count:
        raise RuntimeError(f"{len(answers)} answers to {count} requests")
    return count / seconds


@contextmanager
def _server() -> Iterator[str]:
    from aiohttp import web

    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY)
        choice = {"message": {"content": "Question: a?\nResponse: b"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}})

    loop, ready, urls = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        ready.set()

    loop.create_task(start())
    threading.Thread(target=loop.run_forever, daemon=True).start()
    ready.wait()
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)


# Batches of the embedded model.


def _embedded_batch(repeats: int) -> dict[str, Any]:
    import torch

    from evoray.generation.prompts import Prompting
    from evoray.generation.shape import Shape
    from evoray.generation.writer import Writer
    from evoray.models.loading import load_model, load_tokenizer
    from evoray.records import Message, Row

    threads = torch.get_num_threads()
    rows = [
        Row(id=str(n), messages=(Message("user", f"What is {n} plus {n + 3}?"), Message("assistant", str(2 * n + 3))))
        for n in range(40)
    ]
    shape, prompting = Shape.of(rows), Prompting()
    prompts = prompting.prompts(rows, shape, range(PROMPTS))
    model, tokenizer = load_model("smollm2"), load_tokenizer("smollm2")

    def rate(token_budget: int) -> float:
        writer = Writer(
            temperature=0.8, top_p=0.95, max_new_tokens=NEW_TOKENS, opening="Question:", token_budget=token_budget
        )
        began = time.perf_counter()
        answers = writer.answers(model, tokenizer, prompts)
        tokens = sum(answer.completion_tokens for answer in answers)
        return tokens / (time.perf_counter() - began)

    rate(1 << 20)
    runs = [(rate(1 << 20), rate(1)) for _ in range(repeats)]
    batched, single = median(run[0] for run in runs), median(run[1] for run in runs)
    return {
        "ratio": batched / single, "tokens_per_s": batched, "one_at_a_time_per_s": single, "prompts": PROMPTS,
        "threads": threads,
    }  # fmt: skip


# Near-duplicates.


def _dedup(rows: int) -> dict[str, Any]:
    from evoray.pool.near_duplicates import THRESHOLD, find_near_duplicates, plain

    texts, copied = _short_rows(rows)
    # A changed word in a short sentence may leave less than the threshold: such a pair is no near-duplicate.
    copies = {place for place, source in copied.items() if _similarity(texts[place], texts[source]) >= THRESHOLD}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    dropped = find_near_duplicates([plain(text) for text in texts])
    seconds = time.perf_counter() - began
    found = sum(place in dropped for place in copies)
    return {
        "rows": rows, "seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "data_gb": before / 1e6, "copies": len(copies), "copies_found": found / max(1, len(copies)),
        "others_dropped": len(dropped.keys() - copied.keys()),
    }  # fmt: skip


def _similarity(one: str, other: str) -> float:
    """Jaccard similarity of the character 5-grams."""
    sets = [{text[place : place + 5] for place in range(len(text) - 4)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _short_rows(count: int) -> tuple[list[str], dict[int, int]]:
    """Sentences of about 100 characters; a tenth are copies with a word changed, each with its original's place."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    picks_NW = np.random.default_rng(0).integers(len(words), size=(count, 16))
    texts: list[str] = []
    copied: dict[int, int] = {}
    for place, picks in enumerate(picks_NW.tolist()):
        if place > 10 and place % 10 == 0:
            source = rng.randrange(place // 10) * 10 + rng.randrange(1, 10)  # no copy itself
            sentence = texts[source].split(" ")
            sentence[rng.randrange(len(sentence))] = words[picks[0]]
            copied[place] = source
        else:
            sentence = [words[pick] for pick in picks]
        texts.append(" ".join(sentence))
    return texts, copied


if __name__ == "__main__":
    sys.exit(main())
