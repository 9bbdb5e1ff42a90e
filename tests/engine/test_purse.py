"""What generation may still cost: by the purse that workers ask, and by what earlier processes left behind."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from evoray.engine.generate import spent
from evoray.engine.purse import _Purse
from evoray.storage import Storage, UnitStore


def test_while_others_hold_the_rest_a_request_waits_and_is_not_given_up() -> None:
    purse = _Purse(None, 5000, 1000)
    assert [purse.take(number) for number in range(6)] == [True] * 5 + [None]
    purse.settle(0, 30, 12)  # far less than it might have written
    assert purse.take(5) is None  # prompts are known now, and 42 tokens are gone
    purse.settle(1, 30, 12)
    assert purse.take(5) is True


def test_the_end_of_a_budget_is_final() -> None:
    purse = _Purse(2, 100, 60)
    assert purse.take(0) is True and purse.take(1) is None
    purse.settle(0, 20, 30)
    assert purse.take(1) is False, "the 50 that are left are no whole answer"
    by_requests = _Purse(2, None, 60)
    assert [by_requests.take(0), by_requests.take(0), by_requests.take(1)] == [True, True, False]


def test_an_answer_is_counted_once_and_one_of_an_earlier_process_was_counted_before() -> None:
    purse = _Purse(None, 1000, 100)
    purse.settle(7, 10, 10)
    assert purse.tokens == 1000
    assert purse.take(7) is True
    purse.settle(7, 10, 10)
    purse.settle(7, 10, 10)
    assert purse.tokens == 980 and not purse.under_way


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100)), min_size=1, max_size=60), st.integers(0, 3000))
def test_a_budget_is_passed_by_prompts_alone_and_never_left_while_an_answer_fits(
    answers: list[tuple[int, int]], budget: int
) -> None:
    """Several under way at a time, each settled when no other may start."""
    purse, waiting, under_way = _Purse(None, budget, 100), list(range(len(answers))), []
    paid = 0
    while waiting or under_way:
        allowed = purse.take(waiting[0]) if waiting else None
        if allowed:
            under_way.append(waiting.pop(0))
        elif under_way:
            number = under_way.pop(0)
            purse.settle(number, *answers[number])
            paid += sum(answers[number])
        else:
            assert allowed is False, "nothing is under way that could be waited for"
            break
    longest = max(read for read, _ in answers)
    assert paid <= budget + longest * (budget // 100 + 1), "at most so many are under way"
    assert not waiting or budget - paid < 100 + longest


def test_what_was_spent_counts_each_attempt_once(tmp_path: Path) -> None:
    """Answers of committed units lie about until the round is done: their units have counted them."""
    storage = Storage(tmp_path)
    for unit in range(3):
        facts = {"first_request": unit * 4, "requests": 4, "attempts": 5, "prompt_tokens": 40, "completion_tokens": 8}
        UnitStore(storage, "generated/aa").commit(unit, pa.table({"id": ["x"]}), facts)
    written = {"requests": 8, "prompt_tokens": 7, "completion_tokens": 7}  # by a model in the workers
    UnitStore(storage, "generated/bb").commit(0, pa.table({"id": ["x"]}), written)
    for request in range(14):
        answer = {"kind": "Answer", "text": "", "cut_off": False, "prompt_tokens": 10, "completion_tokens": 2}
        storage.write_json(f"generated/aa/answers/{request:08d}.json", answer)
    storage.write_json("generated/aa/answers/00000003.failures.json", {"failures": 9})
    storage.write_json("generated/aa/answers/00000012.failures.json", {"failures": 2})
    storage.write_json("generated/aa/answers/00000014.failures.json", {"failures": 3})
    storage.write_table("generated/round-0001.parquet", pa.table({"id": ["x"]}))
    assert spent(storage) == (3 * 5 + 2 + 2 + 3, 3 * 48 + 2 * 12 + 14)
