"""The workers that generate: each takes a unit of requests and gives the samples that came of them.

A unit's requests are a function of the settings, the seed and the align rows. An answer that was paid for is stored
the moment it comes, by put-if-absent, and a unit that is computed again asks for the others alone. Models are loaded
once an actor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from evoray.config import GenerationConfig
from evoray.engine.purse import Purse
from evoray.engine.site import Source
from evoray.engine.units import UnitResult, UnitWorker
from evoray.errors import ConfigError
from evoray.generation.endpoint import Endpoint, Pace, ask_all
from evoray.generation.prompts import TEMPLATE, Answer, Prompt, Prompting, turns
from evoray.generation.shape import Refused, Sample, Shape
from evoray.records import Quarantined
from evoray.storage import Storage

if TYPE_CHECKING:
    from evoray.generation.writer import Writer

#: Provenance of a sample beside its parts; `tokens` are those of its request, shared by all samples of it.
SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("instruction", pa.string()),
        ("output", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("generation_model", pa.string()),
        ("generation_round", pa.int64()),
        ("generation_request", pa.int64()),
        ("generation_prompt", pa.string()),
        ("generation_examples", pa.list_(pa.string())),
        ("generation_tokens", pa.int64()),
    ]
)

_NAME = 8  # hex digits of the generator's fingerprint in the ids of its samples
#: How names end that hold the number of failed attempts at a request.
FAILURES = ".failures.json"

Answers = dict[int, Answer | Refused]


@dataclass(frozen=True, kw_only=True)
class GenerateJob:
    """Requests of one round."""

    align: Source
    config: GenerationConfig  # precision settled
    round: int
    seed: int  # of this round's requests
    requests: int
    storage: Storage
    prefix: str  # of this round's units; single answers lie below it until their unit is committed
    workers: int  # that share rate and concurrency
    purse: Purse | None

    def __call__(self) -> UnitWorker:
        kinds: dict[str, Callable[[GenerateJob], UnitWorker]] = {"endpoint": _Asking, "model": _Writing, "vllm": _Vllm}
        return kinds[self.config.source](self)

    @property
    def under_way(self) -> int:
        """Requests of one worker at a time."""
        return max(1, self.config.concurrency // self.workers)

    def numbers(self, unit: int) -> range:
        """The requests of a unit."""
        first = unit * self.config.unit_requests
        return range(first, min(first + self.config.unit_requests, self.requests))

    def key(self, request: int) -> str:
        """Where an answer is until its unit is committed."""
        return f"{self.prefix}/answers/{request:08d}.json"

    def failures_key(self, request: int) -> str:
        """Where it says how many attempts failed, if any did, as long."""
        return f"{self.prefix}/answers/{request:08d}{FAILURES}"


class _Generating(UnitWorker):
    """Prompts, and samples of answers."""

    def __init__(self, job: GenerateJob) -> None:
        self.job = job
        config = job.config
        self.prompting = Prompting(
            template=config.prompt or TEMPLATE,
            form=config.form,
            examples=config.examples,
            count=config.per_request,
            seed=job.seed,
        )

    @cached_property
    def _rows(self) -> list[Any]:
        return self.job.align.read()

    @cached_property
    def shape(self) -> Shape:
        """Of the task's samples."""
        return Shape.of(self._rows)

    @abstractmethod
    def answers(self, prompts: Sequence[Prompt]) -> tuple[Answers, dict[str, int]]:
        """What came back for the requests that were made, by number; and facts."""

    def compute(self, unit: int) -> UnitResult:
        """The samples of a unit; what is no sample is set aside with its reason."""
        prompts = self.prompting.prompts(self._rows, self.shape, self.job.numbers(unit))
        answers, facts = self.answers(prompts)
        rows: list[dict[str, Any]] = []
        refused: list[Quarantined] = []
        for prompt in prompts:
            if prompt.number in answers:
                self._sort(prompt, answers[prompt.number], rows, refused)
        given = [answer for answer in answers.values() if isinstance(answer, Answer)]
        counted = {
            "first_request": prompts[0].number,
            "requests": len(prompts),
            "answered": len(given),
            "skipped": len(prompts) - len(answers),
            "prompt_tokens": sum(answer.prompt_tokens for answer in answers.values()),
            "completion_tokens": sum(answer.completion_tokens for answer in answers.values()),
            "samples": len(rows),
            "refused": len(refused),
        }
        table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
        flops = self.flops(counted["prompt_tokens"] + counted["completion_tokens"])
        return UnitResult(table=table, facts={**counted, **facts}, quarantined=refused, flops=flops)

    def flops(self, _tokens: int) -> float | None:
        """Operations of a model in this process; None where it is elsewhere."""
        return None

    def _sort(
        self, prompt: Prompt, answer: Answer | Refused, rows: list[dict[str, Any]], refused: list[Quarantined]
    ) -> None:
        for place, one in enumerate(self._read(answer)):
            # Of every generator its own: what one wrote may be the pool of another.
            row_id = f"generated-{self.job.round:04d}-{self.job.prefix[-_NAME:]}-{prompt.number:06d}-{place}"
            if isinstance(one, Sample):
                rows.append(self._row(row_id, prompt, one, 0 if isinstance(answer, Refused) else answer.tokens))
                continue
            refused.append(
                Quarantined(
                    id=row_id, stage="generate", reason=one.reason, detail=one.detail, file=self.job.config.model,
                    row=prompt.number,
                )
            )  # fmt: skip

    def _read(self, answer: Answer | Refused) -> list[Sample | Refused]:
        """The samples of an answer. The last of one that was cut off is half a sample, as far as one can tell."""
        if isinstance(answer, Refused):
            return [answer]
        found = self.shape.read(answer.text, self.job.config.form)
        last = found[-1]
        if answer.cut_off and isinstance(last, Refused):
            return [*found[:-1], replace(last, reason=f"{last.reason}, cut off")]
        # An object that ends is whole, and so is a response that is one of the options.
        if answer.cut_off and isinstance(last, Sample) and self.job.config.form == "fields" and not self.shape.options:
            return [*found[:-1], Refused(reason="cut off", detail=f"{last.question}\n{last.response}"[:500])]
        return found

    def _row(self, row_id: str, prompt: Prompt, sample: Sample, tokens: int) -> dict[str, Any]:
        return {
            "id": row_id,
            "source": f"generated/{self.job.config.model}",
            **sample.columns(),
            "generation_model": self.job.config.model,
            "generation_round": self.job.round,
            "generation_request": prompt.number,
            "generation_prompt": self.prompting.fingerprint,
            "generation_examples": list(prompt.examples),
            "generation_tokens": tokens,
        }


class _Asking(_Generating):
    """An endpoint."""

    def answers(self, prompts: Sequence[Prompt]) -> tuple[Answers, dict[str, int]]:
        """Stored answers, and those of the endpoint to all other requests."""
        job, storage, purse = self.job, self.job.storage, self.job.purse
        found, failures = self._stored(prompts)
        attempts = len(found) + sum(failures.values())
        if purse is not None:  # an earlier process may have ended before it said so
            for number, answer in found.items():
                purse.settle(number, answer.prompt_tokens, answer.completion_tokens)

        def allowed(prompt: Prompt) -> bool | None:
            nonlocal attempts
            may = True if purse is None else purse.take(prompt.number)
            attempts += may is True
            return may

        def received(prompt: Prompt, answer: Answer | Refused) -> None:
            storage.create_json(job.key(prompt.number), _to_json(answer))
            found[prompt.number] = answer
            if purse is not None:
                purse.settle(prompt.number, answer.prompt_tokens, answer.completion_tokens)

        def failed(prompt: Prompt) -> None:
            failures[prompt.number] = failures.get(prompt.number, 0) + 1
            storage.write_json(job.failures_key(prompt.number), {"failures": failures[prompt.number]})

        missing = [prompt for prompt in prompts if prompt.number not in found]
        ask_all(self._endpoint, missing, allowed, received, failed, self._pace)
        return found, {"attempts": attempts}

    def _stored(self, prompts: Sequence[Prompt]) -> tuple[Answers, dict[int, int]]:
        """Answers that earlier processes received, and how many of their attempts failed."""
        found: Answers = {}
        failures: dict[int, int] = {}
        keys = set(self.job.storage.keys(f"{self.job.prefix}/answers"))
        for prompt in prompts:
            if (key := self.job.key(prompt.number)) in keys:
                found[prompt.number] = stored_answer(self.job.storage.read_json(key))
            if (key := self.job.failures_key(prompt.number)) in keys:
                failures[prompt.number] = self.job.storage.read_json(key)["failures"]
        return found, failures

    @cached_property
    def _pace(self) -> Pace:
        return Pace(self._endpoint.interval)

    @cached_property
    def _endpoint(self) -> Endpoint:
        config, workers = self.job.config, self.job.workers
        minute = config.requests_per_minute
        return Endpoint(
            url=str(config.url),
            model=config.model,
            key_env=config.key_env,
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            timeout=config.timeout,
            attempts=config.attempts,
            concurrency=self.job.under_way,
            interval=0.0 if minute is None else 60.0 * workers / minute,
            system=config.system,
        )


class _Writing(_Generating):
    """A model in this process."""

    def answers(self, prompts: Sequence[Prompt]) -> tuple[Answers, dict[str, int]]:
        """One batch after the other."""
        model, tokenizer, precision = self._loaded
        given = self._writer.answers(model, tokenizer, prompts, precision)
        return {prompt.number: answer for prompt, answer in zip(prompts, given, strict=True)}, {}

    def flops(self, tokens: int) -> float | None:
        """Of passes forward: earlier tokens are not computed again."""
        from evoray.models.flops import FORWARD, flops_per_token

        return tokens * flops_per_token(self._loaded[0], FORWARD)

    @cached_property
    def _loaded(self) -> Any:
        from evoray.models.loading import autocast_dtype, load_for_inference, load_tokenizer

        precision = autocast_dtype(self.job.config.precision)
        model = load_for_inference(self.job.config.model, None, precision)
        return model, load_tokenizer(self.job.config.model), precision

    @cached_property
    def _writer(self) -> Writer:
        from evoray.generation.writer import Writer

        config = self.job.config
        return Writer(
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            opening=self.shape.opening(config.form),
            system=config.system,
            token_budget=config.pass_tokens,
        )


class _Vllm(_Generating):
    """vLLM, one engine an actor. Seeded by request, so that batches may be composed as the engine likes.

    Ray Data's own processor for vLLM knows no units: what it has written when it is interrupted is lost.
    """

    def answers(self, prompts: Sequence[Prompt]) -> tuple[Answers, dict[str, int]]:
        """All at once: the engine batches them."""
        from vllm import SamplingParams

        config = self.job.config
        chats = [[asdict(turn) for turn in turns(prompt.text, config.system)] for prompt in prompts]
        sampling = [
            SamplingParams(
                temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_new_tokens, seed=prompt.seed
            )
            for prompt in prompts
        ]
        found: Answers = {}
        for prompt, output in zip(prompts, self._engine.chat(chats, sampling, use_tqdm=False), strict=True):
            (written,) = output.outputs
            found[prompt.number] = Answer(
                text=written.text,
                cut_off=written.finish_reason == "length",
                prompt_tokens=len(output.prompt_token_ids),
                completion_tokens=len(written.token_ids),
            )
        return found, {}

    @cached_property
    def _engine(self) -> Any:
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                "generation.source: vllm, and no package vllm in the workers' environment",
                "vLLM, which needs a GPU",
                "serve it from an environment of its own, and set generation.source: endpoint",
            ) from error
        from evoray.models.reference import resolve_model, revision_of

        model = self.job.config.model
        return LLM(model=resolve_model(model), revision=revision_of(model), seed=self.job.seed, trust_remote_code=False)


def _to_json(answer: Answer | Refused) -> dict[str, Any]:
    return {"kind": type(answer).__name__, **asdict(answer)}


def stored_answer(value: Mapping[str, Any]) -> Answer | Refused:
    """An answer as it was stored."""
    fields = {name: held for name, held in value.items() if name != "kind"}
    return Answer(**fields) if value["kind"] == "Answer" else Refused(**fields)
