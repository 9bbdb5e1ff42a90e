"""The loss of a sample: mean cross-entropy over its supervised tokens, for a padded batch at once.

The hidden states of supervised positions are gathered *before* the LM head, so that logits are
[supervised tokens, V] rather than [B, T, V]: most tokens are prompt and carry no loss, and V is large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from evoray.errors import ModelError
from evoray.models.cross_entropy import cross_entropy


class Tokens(Protocol):
    """A tokenised sample: `ids` and, for each of them, whether it carries loss."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def supervised(self) -> Sequence[bool]: ...


@dataclass(frozen=True)
class Batch:
    """Samples padded to rows of one length, or packed into one row (see `packing`).

    `predicts_BT` marks positions whose *next* token carries loss.
    """

    ids_BT: Tensor  # int64
    attention_BT: Tensor  # int64, 1 for real tokens
    predicts_BT: Tensor  # bool
    labels_S: Tensor  # int64: the tokens to predict, sample by sample
    row_S: Tensor  # int64: the sample of each of them
    rows: int  # samples
    positions_BT: Tensor | None = None  # int64, of packed samples: from 0 in each; None: padded

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: one.to(device) if isinstance(one, Tensor) else one for name, one in parts.items()
        }
        return Batch(**moved)


def collate(samples: Sequence[Tokens], pad_id: int) -> Batch:
    """Pad samples on the right to the longest of them.

    Right padding under a causal mask leaves every real token's computation as it is alone.
    """
    longest = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), longest), pad_id, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    predicts = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        ids[row, :length] = torch.as_tensor(sample.ids)
        attention[row, :length] = 1
        predicts[row, : length - 1] = torch.as_tensor(sample.supervised[1:], dtype=torch.bool)
    row_S, position_S = predicts.nonzero(as_tuple=True)
    return Batch(ids, attention, predicts, ids[row_S, position_S + 1], row_S, len(samples))


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices, longest first, so that rows x longest of a group stays within `budget` tokens.

    A sample longer than the budget is a group of its own. Depends on the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each supervised token [S], float32 (float64 for a float64 model), with gradient."""
    if batch.labels_S.numel() == 0:
        return torch.zeros(0, device=batch.ids_BT.device)
    where = (
        {"attention_mask": batch.attention_BT} if batch.positions_BT is None else {"position_ids": batch.positions_BT}
    )
    with gathered_head(model, batch.predicts_BT):
        output = model(input_ids=batch.ids_BT, use_cache=False, **where)
    return cross_entropy(output.logits, batch.labels_S)


@contextmanager
def gathered_head(model: nn.Module, keep_BT: Tensor) -> Iterator[None]:
    """Within it, the model's LM head sees only the positions kept: its logits are [S, V].

    Done by a hook on the head's input, so that whatever a model does to its logits afterwards
    (scaling, soft caps: all elementwise) still happens. Raises ModelError for a model without an LM head.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = base.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(base).__name__} without output embeddings",
            "a causal language model",
            "load the model with AutoModelForCausalLM",
        )

    def gather(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = inputs
        return (hidden[keep_BT], *rest)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def sample_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy over each sample's supervised tokens [B]; 0 for a sample without any."""
    losses_S = token_losses(model, batch)
    sums_B = losses_S.new_zeros(batch.rows).index_add(0, batch.row_S, losses_S)
    counts_B = torch.bincount(batch.row_S, minlength=batch.rows).clamp(min=1)
    return sums_B / counts_B
