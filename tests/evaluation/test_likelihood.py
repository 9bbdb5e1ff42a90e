from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from evoray.evaluation.likelihood import grouped_token_losses, score_rows, token_losses
from evoray.evaluation.shared_prompt import can_share
from evoray.models.chat import Encoded, encode, encode_choices
from evoray.records import Message, Row
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PAD = 0


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():  # random weights of the usual size predict almost evenly: larger ones tell errors apart
        for weight in loaded.parameters():
            weight.mul_(4.0)
    return loaded


def question(number: int, answer: str = "red", prompt: int = 20) -> Row:
    return Row(
        id=f"q{number}",
        messages=(Message("user", f"{number} " + "what? " * (prompt // 6)), Message("assistant", answer)),
        choices=("red", "dark blue", "g", "yellow as the sun"),
        answer=answer,
    )


ROWS = [question(n, answer, prompt) for n, (answer, prompt) in enumerate([("red", 6), ("g", 60), ("dark blue", 30)])]


def one_at_a_time(model: PreTrainedModel, one: Encoded) -> list[float]:
    """Full logits, fp64, no padding, no cache."""
    exact = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        log_probabilities = exact(input_ids=torch.tensor([one.ids])).logits[0].log_softmax(-1)
    return [
        -float(log_probabilities[place - 1, one.ids[place]]) for place in range(len(one.ids)) if one.supervised[place]
    ]


class LittleMemory:
    """A model in which passes of more than so many tokens fail as they do on a GPU."""

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        self.model, self.tokens, self.failed = model, tokens, 0

    def __enter__(self) -> LittleMemory:
        self._hook = self.model.register_forward_pre_hook(self._check, with_kwargs=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._hook.remove()

    def _check(self, _model: object, _args: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].numel() > self.tokens:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_batch_that_does_not_fit_into_memory_is_cut_and_its_losses_are_the_same(model: PreTrainedModel) -> None:
    rows = [question(n, "red", 60) for n in range(6)]
    encoded = encode(rows, TOKENIZER, 200)
    groups = [[one, *encode_choices(row, TOKENIZER, 200)] for one, row in zip(encoded, rows, strict=True)]
    expected, grouped = token_losses(model, encoded, PAD), grouped_token_losses(model, groups, PAD)
    longest = max(len(one.ids) for one in encoded)
    with LittleMemory(model, 2 * longest) as little:
        for got, one in zip(token_losses(model, encoded, PAD), expected, strict=True):
            np.testing.assert_allclose(got, one, rtol=0, atol=1e-5)
        assert little.failed == 3, "of six rows, and of three twice"
        for got_group, group in zip(grouped_token_losses(model, groups, PAD), grouped, strict=True):
            for got, one in zip(got_group, group, strict=True):
                np.testing.assert_allclose(got, one, rtol=0, atol=1e-5)
        assert little.failed > 3
    with LittleMemory(model, longest - 1), pytest.raises(torch.OutOfMemoryError):
        token_losses(model, encoded, PAD)


@pytest.mark.parametrize("token_budget", [1, 100, 4096])
def test_batched_losses_equal_those_of_one_sequence_at_a_time(model: PreTrainedModel, token_budget: int) -> None:
    encoded = [*encode(ROWS, TOKENIZER, 200), *encode_choices(ROWS[1], TOKENIZER, 200)]
    losses = token_losses(model, encoded, PAD, token_budget=token_budget)
    for one, got in zip(encoded, losses, strict=True):
        np.testing.assert_allclose(got, one_at_a_time(model, one), rtol=0, atol=1e-4)


@pytest.mark.parametrize("token_budget", [1, 150, 4096])
def test_a_shared_prompt_gives_the_losses_of_whole_sequences(model: PreTrainedModel, token_budget: int) -> None:
    groups = [[*encode([row], TOKENIZER, 200), *encode_choices(row, TOKENIZER, 200)] for row in ROWS]
    assert can_share(model)
    for group, losses in zip(groups, grouped_token_losses(model, groups, PAD, token_budget=token_budget), strict=True):
        for one, got in zip(group, losses, strict=True):
            np.testing.assert_allclose(got, one_at_a_time(model, one), rtol=0, atol=1e-4)


def computed(model: PreTrainedModel, groups: list[list[Encoded]]) -> list[int]:
    """Padded tokens of each pass that the losses of some groups take."""
    found: list[int] = []
    handle = model.get_input_embeddings().register_forward_pre_hook(lambda _module, ids: found.append(ids[0].numel()))
    try:
        grouped_token_losses(model, groups, PAD)
    finally:
        handle.remove()
    return found


def shared_start(lists: list[list[int]]) -> list[int]:
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))
    return [column[0] for column in columns]


def group_of(row: Row) -> list[Encoded]:
    return [*encode([row], TOKENIZER, 200), *encode_choices(row, TOKENIZER, 200)]


def test_a_shared_prompt_is_computed_once_and_continuations_of_like_length_together(model: PreTrainedModel) -> None:
    group = group_of(ROWS[1])
    prompt = group[1].supervised.index(True) - 1
    ends = sorted((len(one.ids) - prompt for one in group), reverse=True)
    assert ends == [18, 10, 4, 4, 2]
    # The reference of ROWS[1] is "g" and an end, and the choice "g", of two tokens, is how it begins: it costs nothing.
    assert computed(model, [group]) == [prompt, 18, 10, 2 * 4]


def test_what_all_prompts_begin_with_is_computed_once(model: PreTrainedModel) -> None:
    system = "You answer questions about colours, shortly and without a word too many."
    rows = [replace(row, messages=(Message("system", system), *row.messages)) for row in ROWS]
    groups = [group_of(row) for row in rows]
    prompts = [group[1].ids[: group[1].supervised.index(True) - 1] for group in groups]
    common = len(shared_start(prompts))
    assert common >= len(system)
    stem, tails, *_ = computed(model, groups)
    assert (stem, tails) == (common, len(groups) * (max(map(len, prompts)) - common))
    for group, losses in zip(groups, grouped_token_losses(model, groups, PAD), strict=True):
        for one, got in zip(group, losses, strict=True):
            np.testing.assert_allclose(got, one_at_a_time(model, one), rtol=0, atol=1e-4)


def test_a_choice_with_which_the_reference_begins_has_its_first_losses(model: PreTrainedModel) -> None:
    reference, *choices = group_of(ROWS[0])
    (same,) = [place for place, one in enumerate(choices) if reference.ids[: len(one.ids)] == one.ids]
    (losses,) = grouped_token_losses(model, [[reference, *choices]], PAD)
    np.testing.assert_array_equal(losses[1 + same], losses[0][: sum(choices[same].supervised)])
    np.testing.assert_allclose(losses[1 + same], one_at_a_time(model, choices[same]), rtol=0, atol=1e-4)


def test_groups_that_share_little_or_nothing_are_scored_all_the_same(model: PreTrainedModel) -> None:
    rows = [Row(id=str(n), messages=(Message("assistant", text),)) for n, text in enumerate(["abc", "xyz", "abd"])]
    encoded = encode(rows, TOKENIZER, 50)
    (losses,) = grouped_token_losses(model, [encoded], PAD)
    for one, got in zip(encoded, losses, strict=True):
        np.testing.assert_allclose(got, one_at_a_time(model, one), rtol=0, atol=1e-4)


def test_a_sliding_window_model_is_scored_without_sharing_and_right() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    sliding = MistralForCausalLM(config)
    groups = [[*encode([row], TOKENIZER, 200), *encode_choices(row, TOKENIZER, 200)] for row in ROWS]
    assert not can_share(sliding)
    for group, losses in zip(groups, grouped_token_losses(sliding, groups, PAD), strict=True):
        for one, got in zip(group, losses, strict=True):
            np.testing.assert_allclose(got, one_at_a_time(sliding, one), rtol=0, atol=1e-4)


def test_post_processing_of_logits_still_applies(model: PreTrainedModel) -> None:
    encoded = encode(ROWS, TOKENIZER, 200)
    before = token_losses(model, encoded, PAD)[0]
    handle = model.get_output_embeddings().register_forward_hook(lambda _module, _input, logits: torch.tanh(logits))
    try:
        np.testing.assert_allclose(
            token_losses(model, encoded, PAD)[0], one_at_a_time(model, encoded[0]), rtol=0, atol=1e-4
        )
    finally:
        handle.remove()
    np.testing.assert_array_equal(token_losses(model, encoded, PAD)[0], before)


def test_a_sequence_without_supervision_has_no_losses_and_disturbs_nothing(model: PreTrainedModel) -> None:
    encoded = encode(ROWS[:1], TOKENIZER, 200)
    nothing = Encoded(ids=[5, 6], supervised=[False, False], truncated=False, chars=0)
    losses = token_losses(model, [nothing, *encoded, nothing], PAD)
    assert [len(one) for one in losses] == [0, sum(encoded[0].supervised), 0]
    assert token_losses(model, [], PAD) == []


def test_scoring_leaves_the_model_in_the_mode_it_was_in(model: PreTrainedModel) -> None:
    model.train()
    token_losses(model, encode(ROWS[:1], TOKENIZER, 200), PAD)
    assert model.training
    model.eval()
    token_losses(model, encode(ROWS[:1], TOKENIZER, 200), PAD)
    assert not model.training


def test_bfloat16_agrees_with_fp32_to_its_precision(model: PreTrainedModel) -> None:
    encoded = encode(ROWS, TOKENIZER, 200)
    full, half = (token_losses(model, encoded, PAD, autocast=dtype) for dtype in (None, torch.bfloat16))
    for one, other in zip(full, half, strict=True):
        assert abs(one.mean() - other.mean()) < 0.05 * one.mean()
        assert (one != other).any()


def test_the_choice_is_the_likeliest_a_character_and_the_loss_that_of_the_reference(model: PreTrainedModel) -> None:
    for row, score in zip(ROWS, score_rows(model, TOKENIZER, ROWS, 200), strict=True):
        assert row.choices is not None
        encoded = encode_choices(row, TOKENIZER, 200)
        expected = [-sum(one_at_a_time(model, one)) / len(text) for one, text in zip(encoded, row.choices, strict=True)]
        assert score.id == row.id
        assert score.choice_scores == pytest.approx(expected, abs=1e-4)
        assert score.correct == (row.choices[expected.index(max(expected))] == row.answer)
        reference = one_at_a_time(model, encode([row], TOKENIZER, 200)[0])
        assert score.loss == pytest.approx(sum(reference) / len(reference), abs=1e-4)


def test_equal_scores_go_to_the_first_choice(model: PreTrainedModel) -> None:
    with torch.no_grad():
        even = copy.deepcopy(model)
        even.get_output_embeddings().weight.zero_()  # every byte equally likely: all choices tie
    scores = score_rows(even, TOKENIZER, [question(0, "red"), question(0, "g")], 200)
    assert [score.correct for score in scores] == [True, False]


def test_a_row_without_choices_or_without_a_gold_answer_has_no_verdict(model: PreTrainedModel) -> None:
    open_row = Row(id="open", messages=(Message("user", "q"), Message("assistant", "a")))
    unanswered = Row(id="none", messages=open_row.messages, choices=("a", "b"))
    scores = score_rows(model, TOKENIZER, [open_row, unanswered], 200)
    assert [score.correct for score in scores] == [None, None]
    assert scores[0].choice_scores is None
    assert scores[1].choice_scores is not None


def test_a_one_token_response_is_scored_and_a_one_token_text_has_no_loss(model: PreTrainedModel) -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    bare.eos_token = None
    short = Row(id="short", messages=(Message("user", "q"), Message("assistant", "a")))
    alone = Row(id="alone", messages=(Message("assistant", "a"),))
    scores = score_rows(model, bare, [short, alone], 200)
    (expected,) = one_at_a_time(model, encode([short], bare, 200)[0])
    assert scores[0].loss == pytest.approx(expected, abs=1e-4)
    assert np.isnan(scores[1].loss)


def test_a_prompt_far_beyond_the_limit_is_scored_on_what_fits(model: PreTrainedModel) -> None:
    (score,) = score_rows(model, TOKENIZER, [question(0, "red", prompt=3000)], 64)
    encoded = encode_choices(question(0, "red", prompt=3000), TOKENIZER, 64)
    assert score.choice_scores is not None
    assert score.choice_scores[0] == pytest.approx(-sum(one_at_a_time(model, encoded[0])) / 3, abs=1e-4)
    assert np.isfinite(score.loss)
