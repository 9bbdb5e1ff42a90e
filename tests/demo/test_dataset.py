"""The files of the demo: deterministic, in the promised shares, and without a leak from target to pool."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from evoray.demo import DemoFiles, Label, write_demo
from evoray.demo.facts import target_facts
from evoray.demo.job import demo_config
from evoray.errors import ConfigError


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_bytes(files: DemoFiles) -> list[bytes]:
    return [path.read_bytes() for path in (files.pool, files.align, files.validate, files.test, files.labels)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo(tmp_path_factory.mktemp("demo"), seed=0)


@pytest.fixture(scope="module")
def pool(demo: DemoFiles) -> list[dict[str, Any]]:
    return read_lines(demo.pool)


@pytest.fixture(scope="module")
def labels(demo: DemoFiles) -> dict[str, str]:
    table = pq.read_table(demo.labels).to_pydict()
    return dict(zip(table["id"], table["label"], strict=True))


def test_one_seed_gives_the_same_bytes_twice(demo: DemoFiles, tmp_path: Path) -> None:
    assert all_bytes(write_demo(tmp_path, seed=0)) == all_bytes(demo)


def test_another_seed_gives_another_pool_and_another_target(demo: DemoFiles, tmp_path: Path) -> None:
    other = write_demo(tmp_path, seed=1)
    assert all(a != b for a, b in zip(all_bytes(other), all_bytes(demo), strict=True))


def test_the_files_have_the_rows_asked_for(demo: DemoFiles, pool: list[dict[str, Any]]) -> None:
    assert len(pool) == 600
    sizes = [len(read_lines(path)) for path in (demo.align, demo.validate, demo.test)]
    assert sizes == [48, 48, 200]


@pytest.mark.parametrize("rows", [100, 607, 2000])
def test_other_pool_sizes_keep_the_row_count_and_the_share_of_good_rows(rows: int, tmp_path: Path) -> None:
    files = write_demo(tmp_path, seed=3, pool_rows=rows)
    counts = Counter(pq.read_table(files.labels)["label"].to_pylist())
    assert len(read_lines(files.pool)) == counts.total() == rows
    assert 0.2 <= counts["good"] / rows <= 0.25


def test_the_pool_has_at_least_six_kinds(pool: list[dict[str, Any]]) -> None:
    assert len({row["source"] for row in pool}) >= 6


def test_labels_cover_the_pool_and_at_most_a_quarter_is_good(
    pool: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    assert [row["id"] for row in pool] == list(labels)
    counts = Counter(labels.values())
    assert set(counts) == {label.value for label in Label}
    assert counts["good"] <= len(pool) / 4


def test_ids_are_unique_and_say_nothing_of_the_label(pool: list[dict[str, Any]]) -> None:
    ids = [row["id"] for row in pool]
    assert len(set(ids)) == len(ids)
    assert ids == [f"pool-{n:05d}" for n in range(len(ids))]
    assert all(set(row) <= {"id", "source", "instruction", "input", "output"} for row in pool)


def test_rows_without_an_answer_are_few_and_labelled_broken(pool: list[dict[str, Any]], labels: dict[str, str]) -> None:
    unusable = [row["id"] for row in pool if not (row.get("output") or "").strip()]
    assert 0 < len(unusable) < 0.03 * len(pool)
    assert {labels[id_] for id_ in unusable} == {"broken"}


def test_good_rows_are_right_and_distinct_and_wrong_rows_are_wrong(
    pool: list[dict[str, Any]], labels: dict[str, str]
) -> None:
    truth = {question: fact.answer for fact in target_facts() for question in fact.questions}
    good = [row for row in pool if labels[row["id"]] == "good"]
    assert all(truth[row["instruction"]] == row["output"] for row in good)
    assert len({row["instruction"] for row in good}) == len(good)
    wrong = [row for row in pool if labels[row["id"]] == "wrong"]
    assert all(truth[row["instruction"]] != row["output"] for row in wrong)


def test_a_few_duplicates_are_exact_and_the_others_are_not(pool: list[dict[str, Any]], labels: dict[str, str]) -> None:
    good = {(row["instruction"], row["output"]) for row in pool if labels[row["id"]] == "good"}
    copies = [(row["instruction"], row["output"]) in good for row in pool if labels[row["id"]] == "duplicate"]
    assert 0 < sum(copies) < len(copies) / 2


def test_target_rows_have_four_choices_that_hold_the_true_answer(demo: DemoFiles) -> None:
    truth = {question: fact.answer for fact in target_facts() for question in fact.questions}
    for path in (demo.align, demo.validate, demo.test):
        for row in read_lines(path):
            assert len(set(row["choices"])) == 4
            assert row["output"] == row["answer"] == truth[row["instruction"]]
            assert row["answer"] in row["choices"]


def test_the_place_of_the_answer_among_the_choices_tells_nothing(demo: DemoFiles) -> None:
    places = Counter(row["choices"].index(row["answer"]) for row in read_lines(demo.test))
    assert all(25 <= places[place] <= 75 for place in range(4))


def test_no_country_is_asked_about_both_in_two_splits_or_in_a_split_and_the_pool(
    demo: DemoFiles, pool: list[dict[str, Any]]
) -> None:
    entity = {question: fact.entity for fact in target_facts() for question in fact.questions}
    # The wording of a damaged or touched-up row is searched for the names themselves.
    names = {fact.entity: {fact.entity} for fact in target_facts()}
    for fact in target_facts():
        names[fact.entity].add(fact.subject)
    splits = [
        {entity[row["instruction"]] for row in read_lines(path)} for path in (demo.align, demo.validate, demo.test)
    ]
    assert not splits[0] & splits[1]
    assert not (splits[0] | splits[1]) & splits[2]
    kinds = {fact.kind for fact in target_facts()}
    asked = [row["instruction"].replace("\u00c2\u00a0", " ") for row in pool if row["source"] in kinds]
    assert not [q for q in asked if entity.get(q) in splits[0] | splits[1] | splits[2]]
    for country in splits[2]:
        # "Niger" stands in "Nigeria": a name counts where it stands alone.
        for name in names[country] - {"Guinea", "Sudan", "Congo"}:
            assert not [q for q in asked if f" {name.lower()}?" in q.lower() or q.startswith(f"{name} ")]


@pytest.mark.parametrize(
    "sizes", [{"test_rows": 5000}, {"pool_rows": 20000}, {"pool_rows": 0}], ids=["test", "pool", "empty"]
)
def test_more_rows_than_there_are_facts_is_refused(sizes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected"):
        write_demo(tmp_path, seed=0, **sizes)


def test_a_bucket_is_no_place_for_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data is written before anything else is: a URI would become folders of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a folder of this machine"):
        demo_config("s3://bucket/demo", small=True)
    assert list(tmp_path.iterdir()) == []
