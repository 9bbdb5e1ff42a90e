"""Packing: samples one behind the other in one row, each with positions from 0 and attention to itself alone.

Nothing is padded, so that a pass costs its real tokens. Whether a model keeps packed samples apart is not known from
its name: recurrent layers and models that make masks of their own do not. So it is tried out.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from evoray.models.loss import Batch, Tokens, collate, token_losses

_TRIAL_TOKENS = 12  # of each of the two samples that a model is tried on


def pack(samples: Sequence[Tokens]) -> Batch:
    """One row [1, T] of all samples, in their order. No token predicts the first one of the next sample."""
    ids = [torch.as_tensor(sample.ids, dtype=torch.int64) for sample in samples]
    ends = torch.tensor([len(one) for one in ids]).cumsum(0)
    predicts = torch.zeros(int(ends[-1]), dtype=torch.bool)
    owner = torch.zeros_like(predicts, dtype=torch.int64)
    for number, (sample, end) in enumerate(zip(samples, ends.tolist(), strict=True)):
        start = end - len(sample.ids)
        predicts[start : end - 1] = torch.as_tensor(sample.supervised[1:], dtype=torch.bool)
        owner[start:end] = number
    ids_T = torch.cat(ids)
    (place_S,) = predicts.nonzero(as_tuple=True)
    return Batch(
        ids_BT=ids_T[None],
        attention_BT=torch.ones_like(ids_T)[None],
        predicts_BT=predicts[None],
        labels_S=ids_T[place_S + 1],
        row_S=owner[place_S],
        rows=len(samples),
        positions_BT=torch.cat([torch.arange(len(one)) for one in ids])[None],
    )


def packed_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices, longest first into the first group with room, so that a group's tokens stay within `budget`.

    A sample longer than the budget is a group of its own. Depends on the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    left: list[int] = []
    for index in order:
        fits = next((place for place, room in enumerate(left) if room >= lengths[index]), None)
        if fits is None:
            groups.append([index])
            left.append(budget - lengths[index])
        else:
            groups[fits].append(index)
            left[fits] -= lengths[index]
    return groups


def keeps_packed_apart(model: nn.Module) -> bool:
    """Whether a causal model scores two packed samples as it scores them padded: tried on a few tokens.

    The measure is what happens where the second sample does see the first: the difference must be far below that.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return False
    samples = _trial(int(base.config.get_text_config().vocab_size))
    packed = pack(samples)
    joined = replace(packed, positions_BT=torch.arange(packed.ids_BT.shape[1])[None])
    device = next(model.parameters()).device
    with torch.no_grad():
        padded, apart, mixed = (
            token_losses(model, batch.to(device))[_TRIAL_TOKENS - 1 :]
            for batch in (collate(samples, 0), packed, joined)
        )
    return bool((apart - padded).abs().max() <= 0.05 * (mixed - padded).abs().max())


class _Trial:
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.supervised = [False] + [True] * (len(ids) - 1)


def _trial(vocabulary: int) -> list[_Trial]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(vocabulary, (2, _TRIAL_TOKENS), generator=generator).tolist()
    return [_Trial(ids) for ids in drawn]
