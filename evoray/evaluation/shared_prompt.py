"""Likelihoods of several continuations of one prompt, with the prompt computed once.

A multiple-choice question repeats its prompt for every choice and for the reference response, and a chat template
repeats its system message for every question. Under causal attention
the keys and values of a common prefix do not depend on what follows, so they are computed once, repeated in the batch,
and only the continuations run again. The prefix is found by comparing token ids: nothing is assumed about how a
tokenizer splits at the seam.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from evoray.evaluation.forward import padded, predicting, supervised_losses
from evoray.models.chat import Encoded
from evoray.models.memory import in_parts

_WORTH_SHARING = 8  # tokens: below this a second pass costs more than it saves
_LIKE = 0.7  # least length of a continuation beside the longest one of its pass
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
    stem = _stem(model, sequences, families, autocast)
    for batch in _batches(sequences, families, stem.length, token_budget):
        in_parts(batch, lambda part: losses.update(_one_batch(model, sequences, part, stem, pad_id, autocast)))
    return losses


@dataclass(frozen=True, kw_only=True)
class _Stem:
    """What all families begin with: its tokens, and their keys and values in a cache of one row."""

    length: int
    cache: DynamicCache | None  # None: nothing that is worth a pass of its own


def _stem(
    model: PreTrainedModel, sequences: Sequence[Encoded], families: Sequence[Family], autocast: torch.dtype | None
) -> _Stem:
    """The beginning that a chat template gives every question, its system message say, computed once for all."""
    prompts = [sequences[family.members[0]].ids[: family.shared - 1] for family in families]
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    length = sum(1 for _ in alike) if len(prompts) > 1 else 0
    if length < _WORTH_SHARING:
        return _Stem(length=0, cache=None)
    cache = DynamicCache(config=model.config)
    ids_1P = torch.tensor([list(prompts[0][:length])], device=next(model.parameters()).device)
    _fill(model, cache, ids_1P, torch.ones_like(ids_1P), 0, autocast)
    return _Stem(length=length, cache=cache)


def _fill(
    model: PreTrainedModel,
    cache: DynamicCache,
    ids_FP: torch.Tensor,
    seen_FT: torch.Tensor,
    start: int,
    autocast: torch.dtype | None,
) -> None:
    """Run tokens from position `start` on for their keys and values alone. seen_FT: also of what the cache has."""
    positions_P = torch.arange(start, start + ids_FP.shape[1], device=ids_FP.device)
    supervised_losses(
        model,
        ids_FP,
        torch.zeros_like(ids_FP, dtype=torch.bool),
        autocast,
        attention_mask=seen_FT,
        position_ids=positions_P.expand(len(ids_FP), -1),
        past_key_values=cache,
        use_cache=True,
    )


def _batches(
    sequences: Sequence[Encoded], families: Sequence[Family], stem: int, token_budget: int
) -> list[list[Family]]:
    batches: list[list[Family]] = []
    members = prompt = suffix = 0
    for family in sorted(families, key=lambda family: family.shared, reverse=True):
        longest = max(len(sequences[member].ids) for member in family.members) - family.shared
        together = members + len(family.members), max(prompt, family.shared), max(suffix, longest)
        computed = (len(batches[-1]) + 1 if batches else 1) * (together[1] - stem) + together[0] * together[2]
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
    stem: _Stem,
    pad_id: int,
    autocast: torch.dtype | None,
) -> dict[int, torch.Tensor]:
    """Prompts are right-padded in the cache; the attention mask hides the padding and positions skip over it."""
    device = next(model.parameters()).device
    prompts = [sequences[family.members[0]].ids[stem.length : family.shared] for family in batch]
    seen_FP = padded([[1] * family.shared for family in batch], 0, device)
    cache = DynamicCache(config=model.config)
    if stem.cache is not None:
        cache = _rows_of(stem.cache, torch.zeros(len(batch), dtype=torch.long, device=device), model)
    _fill(model, cache, padded(prompts, pad_id, device), seen_FP, stem.length, autocast)
    losses: dict[int, torch.Tensor] = {}
    for group in _of_like_length(sequences, batch):
        members, starts = [one.member for one in group], [one.start for one in group]
        encoded = [sequences[member] for member in members]
        ends = [one.ids[start:] for one, start in zip(encoded, starts, strict=True)]
        owner_B = torch.tensor([one.owner for one in group], device=device)
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
            past_key_values=_rows_of(cache, owner_B, model),
            use_cache=True,
        )
        pieces = torch.split(losses_n, predicting_BS.sum(dim=1).tolist())
        losses.update(zip(members, pieces, strict=True))
    return losses


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A continuation in a batch."""

    member: int  # position in the list of sequences
    owner: int  # position of its family in the batch
    start: int  # tokens that the cache has of it
    length: int  # tokens after them


def _of_like_length(sequences: Sequence[Encoded], batch: Sequence[Family]) -> list[list[_Member]]:
    """The continuations of a batch, in groups without much padding: a long reference beside short choices is common."""
    members = [
        _Member(member=member, owner=owner, start=family.shared, length=len(sequences[member].ids) - family.shared)
        for owner, family in enumerate(batch)
        for member in family.members
    ]
    groups: list[list[_Member]] = []
    for one in sorted(members, key=lambda one: one.length, reverse=True):
        if not groups or one.length < _LIKE * groups[-1][0].length:
            groups.append([])
        groups[-1].append(one)
    return groups


def _rows_of(cache: DynamicCache, rows_B: torch.Tensor, model: PreTrainedModel) -> DynamicCache:
    """Some rows of a cache, each as often as it is named, in a cache of their own."""
    chosen = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows_B], layer.values[rows_B], index)
    return chosen
