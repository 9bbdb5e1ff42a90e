from __future__ import annotations

import pytest

from evoray.errors import ConfigError, TargetError
from evoray.generation.prompts import Prompting
from evoray.generation.shape import Shape
from evoray.records import Message, Row

SHAPE = Shape(options=False, answer=False)
ROWS = [
    Row(id=f"r{number}", messages=(Message("user", f"question {number}"), Message("assistant", f"response {number}")))
    for number in range(20)
]


def test_a_request_is_the_same_whatever_the_order_of_rows() -> None:
    prompting = Prompting(seed=3)
    prompts = prompting.prompts(ROWS, SHAPE, range(30))
    assert prompts == prompting.prompts(ROWS[::-1], SHAPE, range(30))
    assert prompts[7:9] == prompting.prompts(ROWS, SHAPE, [7, 8])
    assert len({prompt.text for prompt in prompts}) > 25
    assert len({prompt.seed for prompt in prompts}) == 30
    assert prompts[0] != Prompting(seed=4).prompts(ROWS, SHAPE, [0])[0]


def test_a_request_shows_the_rows_that_it_names() -> None:
    (prompt,) = Prompting(examples=2, count=5, form="json").prompts(ROWS, SHAPE, [0])
    assert len(set(prompt.examples)) == 2
    for row in ROWS:
        assert (row.messages[-1].content + '"' in prompt.text) == (row.id in prompt.examples)
    assert "5 others" in prompt.text and "JSON" in prompt.text


def test_fewer_rows_than_examples_are_all_shown() -> None:
    assert set(Prompting(examples=9).prompts(ROWS[:2], SHAPE, [0])[0].examples) == {"r0", "r1"}


def test_a_target_without_a_row_to_show_is_refused() -> None:
    raw = Row(id="raw", messages=(Message("assistant", "text"),))
    with pytest.raises(TargetError, match="1 align rows, none with a question"):
        Prompting().prompts([raw], SHAPE, [0])


@pytest.mark.parametrize(
    "template", ["{{ nonsense }}", "{% if %}", "{{ examples.__class__.__mro__ }}", "{{ examples.append('x') }}"]
)
def test_a_template_that_is_wrong_or_reaches_out_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"generation\.prompt"):
        Prompting(template=template).check()
