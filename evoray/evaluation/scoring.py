"""What a configuration asks of every target row, in one place: its loss, and by whom its verdict is given.

| `evaluation.scorer` | verdict of a row |
|---|---|
| `auto`, `choice` | whether the gold choice is the likeliest one; none without choices |
| `loss` | none |
| `exact_match` | whether the generated answer is the gold one, by a rule of `extraction` |
| `package.module:function` | what the user's function gives for the generated answer |

The loss of the reference response is computed in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evoray.config import EvaluationConfig
from evoray.evaluation.extraction import check_extract, exact_match, rule_of
from evoray.evaluation.metric import Judge, Metric, find_metric, load_metric
from evoray.records import Row

if TYPE_CHECKING:
    from evoray.evaluation.likelihood import RowScore

Scorer = Callable[[Sequence[Row]], "list[RowScore]"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How rows are scored. Picklable: workers open it beside a model."""

    config: EvaluationConfig
    metric: Metric | None  # where it is the user's

    @classmethod
    def of(cls, config: EvaluationConfig) -> Scoring:
        """Check a config, and find the metric that it names. Raises ConfigError."""
        check_extract(config.extract)
        return cls(config=config, metric=find_metric(config.scorer) if ":" in config.scorer else None)

    @property
    def generates(self) -> bool:
        """Whether verdicts are on generated answers."""
        return self.metric is not None or self.config.scorer == "exact_match"

    def identity(self) -> dict[str, Any]:
        """All of it that scores depend on, beside model and rows, as JSON values.

        Not among it: `control`, which is about training, and `list_options`, which shows in the rows.
        """
        config = self.config
        facts: dict[str, Any] = config.model_dump(include={"scorer", "precision", "batch_tokens"})
        if self.generates:
            facts["max_new_tokens"] = config.max_new_tokens
        if config.scorer == "exact_match":
            facts["extract"] = config.extract
        if self.metric is not None:
            facts["metric"] = self.metric.digest
        return facts

    def judge(self) -> Judge | None:
        """The verdict on a row and a generated answer; None where nothing is generated. Raises as `load_metric`."""
        if self.metric is not None:
            return load_metric(self.metric)
        if not self.generates:
            return None
        extract = self.config.extract
        return lambda row, response: exact_match(row, response, rule_of(extract, row.subtask))

    def open(self, model: Any, tokenizer: Any, max_tokens: int) -> Scorer:
        """The scorer of a loaded model. Raises as `judge`; the scorer as `score_rows`, `generate` and the judge."""
        from evoray.evaluation.generation import generate
        from evoray.evaluation.likelihood import score_rows
        from evoray.models.loading import autocast_dtype

        config, judge, precision = self.config, self.judge(), autocast_dtype(self.config.precision)

        def score(rows: Sequence[Row]) -> list[RowScore]:
            scores = score_rows(
                model, tokenizer, rows, max_tokens, judge_choices=config.scorer in ("auto", "choice"),
                token_budget=config.pass_tokens, autocast=precision,
            )  # fmt: skip
            if judge is None:
                return scores
            responses = generate(
                model, tokenizer, rows, max_tokens, config.max_new_tokens,
                token_budget=config.pass_tokens, autocast=precision,
            )  # fmt: skip
            return [
                replace(one, response=response, correct=None if response is None else judge(row, response))
                for row, one, response in zip(rows, scores, responses, strict=True)
            ]

        return score
