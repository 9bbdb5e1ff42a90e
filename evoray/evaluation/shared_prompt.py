"""Likelihoods of several continuations of one prompt, with the prompt computed once.

A multiple-choice question repeats its prompt for every choice and for the reference response. Under causal attention
the keys and values of a common prefix do not depend on what follows, so they are computed once, repeated in the batch,
and only the continuations run again. The prefix is found by comparing token ids: nothing is assumed about how a
tokenizer splits at the seam.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from evoray.evaluation.forward import padded, predicting, supervised_losses
from evoray.models.chat import Encoded

_WORTH_SHARING = 8  # tokens: below this a second pass costs more than it saves
_CACHE_PER_BUDGET = 4  # cached tokens allowed for each token of the budget; a cached token is far lighter than its pass


@dataclass(frozen=True, kw_only=True)
class Family:
    """Sequences that begin alike: the first `shared` tokens of all members are equal and carry no loss."""

    members: tuple[int, ...]  # positions in the list of sequences
    shared: int  # tokens


def shared_length(sequences: Sequence[Encoded]) -> int:
    """Tokens of the common prefix that one pass can serve.

    The last token before the first supervised one is left to the continuation, whose hidden state there predicts it.
    """
    limit = min(one.supervised.index(True) if True in one.supervised else len(one.ids) for one in sequences) - 1
    first = sequences[0].ids
    for position in range(max(limit, 0)):
        if any(one.ids[position] != first[position] for one in sequences[1:]):
            return position
    return max(limit, 0)


def worth_sharing(sequences: Sequence[Encoded]) -> bool:
    """Whether a common pass saves work: at least two supervised sequences with a prefix of some length."""
    return len(sequences) > 1 and shared_length(sequences) >= _WORTH_SHARING


def can_share(model: PreTrainedModel) -> bool:
    """Whether a padded cache is exact for this model: full attention in each layer and positions taken from outside.

    Sliding windows count cached padding as tokens, and recurrent layers carry it in their state: those models run
    each sequence whole.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(base.forward).parameters
    if not {"position_ids", "past_key_values", "attention_mask"} <= set(accepted):
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def family_losses(
    model: PreTrainedModel,
    sequences: Sequence[Encoded],
    families: Sequence[Family],
    *,
    pad_id: int,
    token_budget: int,
    autocast: torch.dtype | None,
) -> dict[int, torch.Tensor]:
    """NLL in nats of each member's supervised tokens, by position in `sequences`: fp32 [n], on the model's device."""
    losses: dict[int, torch.Tensor] = {}
    for batch in _batches(sequences, families, token_budget):
        losses.update(_one_batch(model, sequences, batch, pad_id, autocast))
    return losses


def _batches(sequences: Sequence[Encoded], families: Sequence[Family], token_budget: int) -> list[list[Family]]:
    batches: list[list[Family]] = []
    members = prompt = suffix = 0
    for family in sorted(families, key=lambda family: family.shared, reverse=True):
        longest = max(len(sequences[member].ids) for member in family.members) - family.shared
        together = members + len(family.members), max(prompt, family.shared), max(suffix, longest)
        computed = (len(batches[-1]) + 1 if batches else 1) * together[1] + together[0] * together[2]
        cached = together[0] * (together[1] + together[2])
        if not batches or computed > token_budget or cached > _CACHE_PER_BUDGET * token_budget:
            batches.append([])
            together = len(family.members), family.shared, longest
        batches[-1].append(family)
        members, prompt, suffix = together
    return batches


def _one_batch(
    model: PreTrainedModel,
    sequences: Sequence[Encoded],
    batch: Sequence[Family],
    pad_id: int,
    autocast: torch.dtype | None,
) -> dict[int, torch.Tensor]:
    """Prompts are right-padded in the cache; the attention mask hides the padding and positions skip over it."""
    device = next(model.parameters()).device
    prompts_FP = padded([sequences[family.members[0]].ids[: family.shared] for family in batch], pad_id, device)
    seen_FP = padded([[1] * family.shared for family in batch], 0, device)
    cache = DynamicCache(config=model.config)
    supervised_losses(
        model,
        prompts_FP,
        torch.zeros_like(seen_FP, dtype=torch.bool),
        autocast,
        attention_mask=seen_FP,
        past_key_values=cache,
        use_cache=True,
    )
    owners = [place for place, family in enumerate(batch) for _ in family.members]
    owner_B = torch.tensor(owners, device=device)
    cache.batch_select_indices(owner_B)

    members = [member for family in batch for member in family.members]
    encoded = [sequences[member] for member in members]
    starts = [batch[owner].shared for owner in owners]
    ends = [one.ids[start:] for one, start in zip(encoded, starts, strict=True)]
    ids_BS = padded(ends, pad_id, device)
    seen_BS = padded([[1] * len(end) for end in ends], 0, device)
    positions_BS = torch.tensor(starts, device=device)[:, None] + torch.arange(ids_BS.shape[1], device=device)
    predicting_BS = predicting(encoded, starts, device)
    losses_n, _ = supervised_losses(
        model,
        ids_BS,
        predicting_BS,
        autocast,
        attention_mask=torch.cat([seen_FP[owner_B], seen_BS], dim=1),
        position_ids=positions_BS,
        past_key_values=cache,
        use_cache=True,
    )
    pieces = torch.split(losses_n, predicting_BS.sum(dim=1).tolist())
    return dict(zip(members, pieces, strict=True))
