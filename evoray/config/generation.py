"""Settings of a generator: who writes candidates, what it is asked, and what that may cost."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from evoray.config.section import Computed, PassTokens, Precision
from evoray.errors import ConfigError

#: Pieces of text that are a key, and belong into the environment.
_KEY = re.compile(r"^(sk-|key-|Bearer )|^[A-Za-z0-9_-]{32,}$")


class GenerationConfig(Computed):
    """Candidates that a model writes for the task, anew in each round."""

    auto_tokens = (8192, 65_536)

    source: Literal["model", "endpoint", "vllm"] = "model"  # transformers here, an OpenAI-compatible server, or vLLM
    model: str = "smollm2"  # hub id, local directory or smollm2; at an endpoint: the name that it knows
    samples: int = Field(512, ge=1)  # asked for in a round
    per_request: int = Field(1, ge=1, le=64)  # samples asked for in one request
    examples: int = Field(3, ge=1, le=32)  # align rows that a request shows
    form: Literal["fields", "json"] = "fields"  # how samples are written
    prompt: str | None = None  # Jinja template with `examples`, `count` and `form`; null: evoray's own
    system: str | None = None  # a system message before it
    temperature: float = Field(0.8, ge=0, le=5)  # 0: the likeliest tokens
    top_p: float = Field(0.95, gt=0, le=1)  # share of the probability that tokens are drawn from
    max_new_tokens: int = Field(128, ge=1)  # of one answer
    unit_requests: int = Field(64, ge=1)  # requests of one unit of work

    url: str | None = None  # of the endpoint, up to and including /v1, say
    key_env: str | None = "OPENAI_API_KEY"  # environment variable that holds its key; null: the endpoint needs none
    concurrency: int = Field(16, ge=1)  # requests under way, over all workers
    requests_per_minute: float | None = Field(None, gt=0)  # started, over all workers
    timeout: float = Field(120.0, gt=0)  # seconds of one attempt
    attempts: int = Field(6, ge=1)  # at one request
    max_requests: int | None = Field(None, ge=1)  # attempts in the whole run; then rounds go on with what there is
    max_tokens: int | None = Field(None, ge=1)  # read and written, in the whole run; likewise

    batch_tokens: PassTokens = "auto"  # padded tokens of one batch of source: model; auto: 8192, 65536 on a GPU
    precision: Precision = "auto"  # of source: model

    near: float = Field(0.8, gt=0, le=1)  # samples this similar (Jaccard of 5-grams) to a row there is are dropped

    @model_validator(mode="after")
    def _consistent(self) -> GenerationConfig:
        if (self.source == "endpoint") != (self.url is not None):
            raise ConfigError(
                f"generation.source: {self.source} with " + ("a url" if self.url else "no url"),
                "a url for source: endpoint, and for no other",
                "set generation.url, such as http://127.0.0.1:8000/v1, or another source",
            )
        if self.url is not None and not re.match(r"https?://[^/@\s]+(/[^\s@]*)?$", self.url):
            raise ConfigError(
                "generation.url that is none, or that holds a user name or a key",
                "http:// or https://, a host, perhaps a port and a path such as /v1",
                "correct it; the key goes into the environment variable that generation.key_env names",
            )
        if self.key_env is not None and (_KEY.search(self.key_env) or not self.key_env.isidentifier()):
            raise ConfigError(
                "generation.key_env that is no name of an environment variable",
                "the name of the variable that holds the key, never the key",
                "export the key under a name such as OPENAI_API_KEY, and give that name",
            )
        bounded = [name for name in ("max_requests", "max_tokens") if getattr(self, name) is not None]
        if bounded and self.source != "endpoint":
            raise ConfigError(
                f"generation.{bounded[0]} with source: {self.source}",
                "a budget for source: endpoint: other sources are bounded by samples and max_new_tokens",
                f"leave generation.{bounded[0]} out",
            )
        return self
