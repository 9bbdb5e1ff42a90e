"""Conversations to tokens, with a mask of the tokens that carry loss.

The text is rendered once by the tokenizer's chat template and tokenised once; spans of the rendered text then say
which tokens are supervised. Rendering every turn apart and joining the pieces would tokenise differently at the seams
than a model sees in use. A tokenizer without a template gets plain text: each prompt turn and an empty line, then the
answer and the end-of-text token. Control tokens in messages are plain text too (`control_tokens.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from evoray.errors import ConfigError, ModelError, TargetError
from evoray.models.control_tokens import NOTHING, Hidden, hide
from evoray.records import Message, Row

Span = tuple[int, int]
#: For templates that name a day: with another one each day, no two days' features or scores would go together. It is
#: the day that Llama 3's templates have where they are told none.
_DATE = "26 Jul 2024"
_PLACE = "\ue000"  # for private use: no template has something of its own to say about it


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sequence: `ids` and `supervised` have equal length T; `supervised[t]` says that token t carries loss.

    Token 0 has no context and is never supervised. `chars` counts the characters of the supervised text before any
    truncation; `truncated` says that tokens were cut off.
    """

    ids: list[int]
    supervised: list[bool]
    truncated: bool
    chars: int


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    """A whole conversation as text, and the spans of it (start, end in characters) that carry loss."""

    text: str
    spans: tuple[Span, ...]
    hidden: Hidden = NOTHING


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Encoded]:
    """Tokenise rows, at most `max_tokens` (>= 2) each; every assistant turn carries loss, its end-of-turn included.

    A row of assistant turns alone is raw text and gets no chat wrapper. An assistant turn that opens a longer
    conversation answers nothing and is context. A sequence that is too long loses its end; where that would leave no
    supervised token, it loses the start of the prompt instead, and up to `max_tokens // 2` tokens of the answer stay.

    Raises ModelError for a tokenizer without offsets and a chat template that refuses the conversation or renders a
    conversation differently once it goes on; ConfigError for `max_tokens` below 2.
    """
    _check(tokenizer, max_tokens)
    rendered = [_render(row.id, row.messages, tokenizer) for row in rows]
    return [_truncate(whole, max_tokens) for whole in _tokenise(rendered, tokenizer)]


def encode_text(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Encoded]:
    """Tokenise rows for an encoder: the turns' texts, a line break between them, with the encoder's own special tokens.

    Every token counts as supervised: an encoder makes no difference. Raises as `encode` does.
    """
    _check(tokenizer, max_tokens)
    if not rows:
        return []
    texts = ["\n".join(message.content for message in row.messages) for row in rows]
    limit = min(max_tokens, tokenizer.model_max_length)
    return [
        Encoded(ids=list(ids), supervised=[True] * len(ids), truncated=len(ids) < whole, chars=len(text))
        for text, ids, whole in zip(
            texts,
            tokenizer(texts, truncation=True, max_length=limit)["input_ids"],
            [len(ids) for ids in tokenizer(texts)["input_ids"]],
            strict=True,
        )
    ]


def encode_choices(row: Row, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Encoded]:
    """Tokenise the row once for every choice, as the last assistant turn; only the choice's own text is supervised.

    The sequences end with the choice (what follows cannot change its likelihood). Where the longest is above
    `max_tokens`, all of them lose the same number of tokens at the prompt's start, so that all choices are judged
    after the same context. `chars` is the choice's length in characters.

    Raises TargetError where the row has no choices or an empty one; otherwise as `encode`.
    """
    _check(tokenizer, max_tokens)
    if not row.choices or not all(choice.strip() for choice in row.choices):
        raise TargetError(
            f"row {row.id} with choices {row.choices!r}", "choices that are not empty", "correct or drop the row"
        )
    rendered = [_render_choice(row, choice, tokenizer) for choice in row.choices]
    whole = [
        _until_last_supervised(replace(encoded, chars=len(choice)))
        for encoded, choice in zip(_tokenise(rendered, tokenizer), row.choices, strict=True)
    ]
    excess = max(len(encoded.ids) for encoded in whole) - max_tokens
    if excess <= 0:
        return whole
    prompt = min(_first_supervised(encoded) for encoded in whole)
    start = min(excess, max(prompt - 1, 0))
    return [_window(encoded, start, start + max_tokens) for encoded in whole]


def encode_prompts(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[list[int] | None]:
    """Token ids of what a model is asked to answer: all turns before the last one, and the opening of its answer.

    It is the text that `encode` puts before the last answer. A prompt above `max_tokens` loses its start: what is
    asked mostly stands at the end. None for a row that is raw text: it asks nothing. Raises as `encode` does.
    """
    _check(tokenizer, max_tokens)
    asking = [index for index, row in enumerate(rows) if row.asks]
    rendered = [_render_prompt(rows[index], tokenizer) for index in asking]
    prompts: list[list[int] | None] = [None] * len(rows)
    for index, encoded in zip(asking, _tokenise(rendered, tokenizer), strict=True):
        prompts[index] = encoded.ids[-max_tokens:]
    return prompts


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which an answer ends under the chat template; None where it ends without one."""
    turns = (Message("user", "a"), Message("assistant", "b"))
    (encoded,) = _tokenise([_render("the end of a turn", turns, tokenizer)], tokenizer)
    last = [token for token, supervised in zip(encoded.ids, encoded.supervised, strict=True) if supervised][-1]
    return last if last in tokenizer.all_special_ids or last in tokenizer.added_tokens_decoder else None


def list_options(row: Row) -> Row:
    """Copy the row with its choices listed under the last user message; a row without choices is returned as it is.

    Raises TargetError where there are choices but no user message to list them under.
    """
    if not row.choices:
        return row
    places = [index for index, message in enumerate(row.messages) if message.role == "user"]
    if not places:
        raise TargetError(
            f"row {row.id} with choices and no user message",
            "a user message that asks the question",
            "add the question or leave the options unlisted",
        )
    asked = row.messages[places[-1]]
    listed = "\n".join(["Options:", *(f"- {choice}" for choice in row.choices)])
    messages = list(row.messages)
    messages[places[-1]] = Message(asked.role, f"{asked.content}\n{listed}")
    return replace(row, messages=tuple(messages))


def _check(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
    if not tokenizer.is_fast:
        raise ModelError(
            f"the slow tokenizer {type(tokenizer).__name__}",
            "a fast tokenizer, which says where in the text a token starts",
            "convert it with AutoTokenizer.from_pretrained(..., use_fast=True) and save it beside the model",
        )
    template = str(tokenizer.chat_template or "")
    if "strftime_now" in template and "date_string" not in template:
        raise ModelError(
            "a chat template that puts today's date into every row",
            "one that renders a row the same on every day",
            "set a chat_template with a fixed date, or with date_string, in the tokenizer's folder",
        )
    if max_tokens < 2:
        raise ConfigError(f"max_tokens = {max_tokens}", "at least 2: one of context, one to predict", "raise it")


def _render(row_id: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> _Rendered:
    turns, hidden = hide(messages, tokenizer)
    return replace(_render_turns(row_id, turns, tokenizer), hidden=hidden)


def _render_turns(row_id: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> _Rendered:
    if all(message.role == "assistant" for message in messages) or not tokenizer.chat_template:
        return _render_plain(messages, tokenizer)
    text = _template(row_id, messages, tokenizer, prompt=False)
    spans: list[Span] = []
    for index, message in enumerate(messages):
        if message.role != "assistant" or index == 0:
            continue
        before = _opening(row_id, messages[:index], tokenizer)
        through = text if index + 1 == len(messages) else _template(row_id, messages[: index + 1], tokenizer)
        if not (text.startswith(through) and through.startswith(before)):
            raise ModelError(
                f"a chat template that renders turn {index} of row {row_id} differently once the conversation goes on",
                "a prefix-stable template: a longer conversation only adds text at the end",
                "set a chat_template without conditions on later turns in the tokenizer's folder",
            )
        # White space that a template puts after the end-of-turn token is never generated: it carries no loss.
        spans.append((len(before), max(len(before), len(through.rstrip()))))
    return _Rendered(text=text, spans=tuple(spans))


def _render_prompt(row: Row, tokenizer: PreTrainedTokenizerBase) -> _Rendered:
    asked, hidden = hide(row.messages[:-1], tokenizer)
    if not tokenizer.chat_template:
        return replace(_render_plain(asked, tokenizer), spans=(), hidden=hidden)
    return _Rendered(text=_opening(row.id, asked, tokenizer), spans=(), hidden=hidden)


def _opening(row_id: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands before the answer to some turns, up to white space: the answer's own tokens may begin with that.

    A template that has no generation prompt may still write a header before each answer.
    """
    before = _template(row_id, messages, tokenizer, prompt=True)
    if _has_generation_prompt(tokenizer):
        return before
    headed = _until_answer(row_id, messages, tokenizer).rstrip()
    return headed if headed.startswith(before) else before


@lru_cache(maxsize=8)
def _has_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> bool:
    asked = [Message("user", "a")]
    return _template("", asked, tokenizer, prompt=True) != _template("", asked, tokenizer)


def _until_answer(row_id: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """All that the template writes before the content of an answer."""
    text, _, _ = _template(row_id, (*messages, Message("assistant", _PLACE)), tokenizer).rpartition(_PLACE)
    return text


def _template(
    row_id: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False
) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(
            tokenizer.apply_chat_template(turns, add_generation_prompt=prompt, tokenize=False, date_string=_DATE)
        )
    except TemplateError as error:
        raise ModelError(
            f"a chat template that refuses row {row_id}: {error}",
            f"a template that takes the roles {[message.role for message in messages]}",
            "drop such rows from the pool or set another chat_template in the tokenizer's folder",
        ) from error


def _render_plain(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> _Rendered:
    """Prompt turns end in an empty line, assistant turns in the end-of-text token."""
    text = _leading_token(tokenizer)
    spans: list[Span] = []
    for message in messages:
        start = len(text)
        if message.role == "assistant":
            text += message.content + str(tokenizer.eos_token or "")
            spans.append((start, len(text)))
        else:
            text += message.content + "\n\n"
    return _Rendered(text=text, spans=tuple(spans))


def _leading_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The begin-of-text token where this tokenizer opens plain text with it; templates write their own."""
    if tokenizer.bos_token is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return str(tokenizer.bos_token)
    return ""


def _render_choice(row: Row, choice: str, tokenizer: PreTrainedTokenizerBase) -> _Rendered:
    messages, hidden = hide((*row.messages[:-1], Message("assistant", choice)), tokenizer)
    rendered, choice = _render_turns(row.id, messages, tokenizer), messages[-1].content
    opening = rendered.spans[-1][0]
    is_plain = not row.asks or not tokenizer.chat_template
    # Not searched for: "a" also is in the header of an answer, and "end" in the token that ends it.
    start = opening if is_plain else len(_until_answer(row.id, messages[:-1], tokenizer))
    written = choice if rendered.text.startswith(choice, start) else choice.strip()  # some templates strip the content
    if not rendered.text.startswith(written, start):
        raise ModelError(
            f"a chat template that rewrites the choice {choice!r} of row {row.id}",
            "a template that writes the content as it is",
            "set another chat_template in the tokenizer's folder",
        )
    end = start + len(written)
    if start > opening and rendered.text[start - 1] == " ":  # many tokenizers join it to the first word
        start -= 1
    return _Rendered(text=rendered.text, spans=((start, end),), hidden=hidden)


def _tokenise(rendered: Sequence[_Rendered], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """The one place where text becomes ids."""
    plain = [whole.text for whole in rendered if not whole.hidden.texts]
    batch = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True) if plain else {}
    tokens = iter(zip(batch.get("input_ids", ()), batch.get("offset_mapping", ()), strict=True))
    encoded: list[Encoded] = []
    for whole in rendered:
        ids, starts = _tokenise_pieces(whole, tokenizer) if whole.hidden.texts else _begun(*next(tokens))
        supervised = [any(start <= first < end for start, end in whole.spans) for first in starts]
        supervised[:1] = [False] * len(supervised[:1])
        chars = sum(len(whole.hidden.restore(whole.text[start:end])) for start, end in whole.spans)
        encoded.append(Encoded(ids=ids, supervised=supervised, truncated=False, chars=chars))
    return encoded


def _begun(ids: Sequence[int], offsets: Sequence[Span], base: int = 0) -> tuple[list[int], list[int]]:
    """Ids, and where each begins."""
    return list(ids), [base + first for first, _ in offsets]


def _tokenise_pieces(whole: _Rendered, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids, and where in the text each begins: of what is hidden, where its place does."""
    ids: list[int] = []
    starts: list[int] = []
    position = 0
    for piece, hidden in whole.hidden.pieces(whole.text):
        if hidden is None:
            batch = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            more, begun = _begun(batch["input_ids"], batch["offset_mapping"], position)
        else:
            more = tokenizer(hidden, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            begun = [position] * len(more)
        ids, starts, position = ids + more, starts + begun, position + len(piece)
    return ids, starts


def _truncate(encoded: Encoded, max_tokens: int) -> Encoded:
    if len(encoded.ids) <= max_tokens:
        return encoded
    first = _first_supervised(encoded)
    if first < max_tokens or first == len(encoded.ids):
        return _window(encoded, 0, max_tokens)
    end = min(first + max_tokens // 2, len(encoded.ids))
    return _window(encoded, end - max_tokens, end)


def _window(encoded: Encoded, start: int, end: int) -> Encoded:
    """Tokens [start, end); the first one that stays loses its context and so its supervision."""
    supervised = encoded.supervised[start:end]
    supervised[:1] = [False] * len(supervised[:1])
    return replace(encoded, ids=encoded.ids[start:end], supervised=supervised, truncated=True)


def _first_supervised(encoded: Encoded) -> int:
    return encoded.supervised.index(True) if True in encoded.supervised else len(encoded.ids)


def _until_last_supervised(encoded: Encoded) -> Encoded:
    end = max((index + 1 for index, carries in enumerate(encoded.supervised) if carries), default=len(encoded.ids))
    return replace(encoded, ids=encoded.ids[:end], supervised=encoded.supervised[:end])
