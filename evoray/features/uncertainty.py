"""`uncertainty`: how sure a model is of the next token, as three means over a row.

[entropy in nats, gap between the two largest logits, largest logit], each the mean over all tokens of the row, prompt
and response: what DiverseEvol's alternatives to k-center rank by (arXiv 2311.08182). Of T tokens the positions 0..T-2
count, those whose next token is in the row. The authors' code counts the last position, too, whose logits predict
nothing of the row. Padding never counts. A row of one token has no such position, and its means are not a number.

The logits [batch, time, V] are never all there: hidden states go through the LM head some hundred at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evoray.errors import ModelError
from evoray.features.protocol import FeatureBatch
from evoray.models.flops import FORWARD, flops_per_token
from evoray.models.loss import Batch

_CHUNK_ENTRIES = 2**24  # logits that are there at a time: 64 MiB in float32


class UncertaintyFeatures:
    """Mean entropy, top-two gap and largest logit of a causal language model's next tokens.

    precision: autocast type of the passes; None computes in the model's own. The three are taken of float32 logits.
    Raises ModelError on building for a model without an LM head.
    """

    dim = 3

    def __init__(self, model: Any, precision: torch.dtype | None = None) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise ModelError(
                f"{type(model).__name__} without output embeddings",
                "a causal language model",
                "load the model with AutoModelForCausalLM",
            )
        self._model = model.eval().requires_grad_(False)
        self._precision = precision
        self._height = max(1, _CHUNK_ENTRIES // int(head.weight.shape[0]))
        self.device = next(model.parameters()).device
        self.flops_per_token = flops_per_token(model, FORWARD)

    def __call__(self, batch: Batch) -> FeatureBatch:
        """One forward pass, and the head in chunks; no losses."""
        amp = torch.autocast(self.device.type, self._precision) if self._precision else nullcontext()
        real_BT = batch.attention_BT.bool()
        predicts_BT = torch.zeros_like(real_BT)
        predicts_BT[:, :-1] = real_BT[:, :-1] & real_BT[:, 1:]
        row_S = predicts_BT.nonzero()[:, 0]
        sum_BF = torch.zeros(batch.rows, self.dim, dtype=torch.float64, device=self.device)
        with torch.inference_mode(), amp:
            body = self._model.base_model(
                input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False, return_dict=True
            )
            with _head_alone(self._model, body) as logits_of:
                hidden_SH = body.last_hidden_state[predicts_BT]
                for start in range(0, len(row_S), self._height):
                    some = slice(start, start + self._height)
                    sum_BF.index_add_(0, row_S[some], sureness(logits_of(hidden_SH[some])).double())
        counts_B = predicts_BT.sum(1, keepdim=True)
        return FeatureBatch((sum_BF / counts_B).float(), None)


def sureness(logits_SV: Tensor) -> Tensor:
    """[entropy in nats, gap between the two largest, largest] of each row of logits [S, 3], in float32 at least."""
    wide_SV = logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32))
    top_S2 = wide_SV.topk(2, dim=1).values
    entropy_S = torch.special.entr(torch.softmax(wide_SV, 1)).sum(1)
    return torch.stack([entropy_S, top_S2[:, 0] - top_S2[:, 1], top_S2[:, 0]], dim=1)


@contextmanager
def _head_alone(model: Any, body: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """Within it, logits [S, V] of hidden states [S, H], without another pass of the body.

    The model's own forward is run with a body that returns the given states: whatever the model does to logits beside
    its head (scaling, soft caps) is then done, too.
    """
    states: list[Tensor] = []

    def given(*_inputs: Any, **_options: Any) -> Any:
        return replace(body, last_hidden_state=states[-1])

    def logits_of(hidden_SH: Tensor) -> Tensor:
        states[:] = [hidden_SH[None]]
        ids_1S = torch.zeros(1, len(hidden_SH), dtype=torch.int64, device=hidden_SH.device)
        logits: Tensor = model(input_ids=ids_1S, use_cache=False, return_dict=True).logits[0]
        return logits

    inner = model.base_model
    own = vars(inner).get("forward")  # None: the one of its class
    inner.forward = given
    try:
        yield logits_of
    finally:
        del inner.forward
        if own is not None:
            inner.forward = own
