"""Tasks of the LM Evaluation Harness as targets: tasks in YAML over local files, so that nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evoray.engine.stages import _describe_target
from evoray.errors import TargetError
from evoray.pool import find_target, read_target_split
from evoray.pool.harness import open_task
from evoray.records import Message, Row
from evoray.storage import Storage

pytest.importorskip("lm_eval", reason="NOT TESTED: lm_eval is not installed (pip install -e '.[lm-eval]')")

_KINDS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it reads below the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def question(name: str, right: int = 1) -> dict[str, Any]:
    return {"q": f"Which of {name}?", "options": [f"{name} a", f"{name} b", f"{name} c"], "gold": right}


def documents(kind: str, count: int = 4) -> list[dict[str, Any]]:
    return [question(f"{kind}{place}", place % 3) for place in range(count)]


class Tasks:
    """A folder of tasks, each with its documents in files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tasks"
        self.folder.mkdir()

    def add(self, name: str, kinds: tuple[str, ...] = _KINDS, data: Any = documents, **settings: Any) -> str:
        """Write a task, of multiple choice where the settings do not say otherwise; return the target."""
        files = {}
        for kind in kinds:
            file = self.folder / f"{name}-{kind}.jsonl"
            file.write_text("".join(json.dumps(document) + "\n" for document in data(kind)))
            files[kind] = str(file)
        splits = {"train": "training_split", "valid": "validation_split", "test": "test_split"}
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            **{splits[kind]: kind for kind in kinds},
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{q}}\nAnswer:",
            "doc_to_choice": "options",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            **settings,
        }
        written = {key: value for key, value in task.items() if value is not None}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(written))
        return f"lm-eval:{name}@{self.folder}"


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    return Tasks(tmp_path)


def read(target: str, split: str) -> list[Row]:
    return read_target_split(target, split, 0)[0]  # type: ignore[arg-type]


def prompts(rows: list[Row]) -> list[str]:
    return [row.messages[0].content for row in rows]


def expected(kind: str, count: int = 4) -> list[str]:
    return [f"Question: {document['q']}\nAnswer:" for document in documents(kind, count)]


def test_a_multiple_choice_task_gives_prompt_choices_and_the_right_one(tasks: Tasks) -> None:
    rows = read(tasks.add("mine"), "test")
    assert prompts(rows) == expected("test")
    for row, document in zip(rows, documents("test"), strict=True):
        right = document["options"][document["gold"]]
        assert row.choices == tuple(document["options"])
        assert row.answer == right
        assert row.messages[1:] == (Message("assistant", right),)
        assert row.subtask is None


def test_prompt_and_choices_are_those_that_the_harness_itself_asks_with(tasks: Tasks) -> None:
    target = tasks.add("mine", description="Choose well.\n\n", gen_prefix="It is")
    found = open_task(target)
    assert found is not None
    task = found.tasks["mine"]
    task.build_all_requests(rank=0, world_size=1)
    asked = sorted((one.doc_id, one.idx, *one.args) for one in task.instances)
    rows = read(target, "test")
    ours = [
        (place, index, row.messages[0].content, choice)
        for place, row in enumerate(rows)
        for index, choice in enumerate(row.choices or ())
    ]
    assert prompts(rows)[0] == "Choose well.\n\nQuestion: Which of test0?\nAnswer: It is"
    assert ours == [(place, index, context.strip(), choice.strip()) for place, index, context, choice in asked]


def test_validation_documents_are_dev_and_test_documents_alone_are_test(tasks: Tasks) -> None:
    target = tasks.add("mine")
    align, validate = read(target, "align"), read(target, "validate")
    assert len(align) == len(validate) == 2
    assert sorted(prompts(align) + prompts(validate)) == expected("valid")
    assert prompts(read(target, "test")) == expected("test")


def test_without_validation_documents_training_documents_are_dev(tasks: Tasks) -> None:
    target = tasks.add("mine", kinds=("train", "test"))
    assert sorted(prompts(read(target, "align") + read(target, "validate"))) == expected("train")


def test_a_validation_split_that_is_the_test_split_is_not_dev(tasks: Tasks) -> None:
    target = tasks.add("mine", kinds=("train", "test"), validation_split="test")
    assert sorted(prompts(read(target, "align") + read(target, "validate"))) == expected("train")
    with pytest.raises(TargetError, match="that are not the test documents"):
        find_target(tasks.add("alone", kinds=("test",), validation_split="test"))


def test_without_test_documents_there_is_no_test_split(tasks: Tasks) -> None:
    target = tasks.add("mine", kinds=("train", "valid"))
    assert find_target(target).test is None
    assert len(read(target, "align")) == 2
    with pytest.raises(TargetError, match="no test split"):
        read(target, "test")


def test_a_generated_answer_is_the_reference_of_its_prompt(tasks: Tasks) -> None:
    target = tasks.add(
        "sums",
        data=lambda kind: [{"q": f"{kind} 2 + {place}", "full": f"It is {2 + place}."} for place in range(4)],
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="full",
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    rows = read(target, "test")
    assert [row.messages[1].content for row in rows] == ["It is 2.", "It is 3.", "It is 4.", "It is 5."]
    assert {(row.choices, row.answer) for row in rows} == {(None, None)}


def test_a_group_names_the_task_of_each_row_as_its_subtask(tasks: Tasks) -> None:
    tasks.add("one", data=lambda kind: documents(f"{kind}-one"))
    tasks.add("two", data=lambda kind: documents(f"{kind}-two"))
    (tasks.folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["two", "one"]}))
    rows = read(f"lm-eval:both@{tasks.folder}", "test")
    assert [row.subtask for row in rows] == ["one"] * 4 + ["two"] * 4
    assert prompts(rows) == expected("test-one") + expected("test-two")


def test_a_document_whose_answer_is_hidden_is_set_aside(tasks: Tasks) -> None:
    target = tasks.add("mine", data=lambda kind: [question("seen"), question("hidden", -1), question("beyond", 3)])
    rows, refused = read_target_split(target, "test", 0)
    assert prompts(rows) == ["Question: Which of seen?\nAnswer:"]
    assert [(record.row, record.file) for record in refused] == [(1, f"{target} (test)"), (2, f"{target} (test)")]


def test_the_identity_of_a_target_is_that_of_its_rows(tasks: Tasks, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))

    def identity(target: str) -> str:
        return _describe_target(target, "test", 0, storage).content

    first = identity(tasks.add("mine"))
    assert identity(tasks.add("renamed")) == first
    moved = shutil.copytree(tasks.folder, tmp_path / "moved")
    assert identity(f"lm-eval:mine@{moved}") == first
    assert identity(tasks.add("other", data=lambda kind: documents(kind, 3))) != first
    assert identity(tasks.add("mine", doc_to_text="{{q}}")) != first


def test_the_same_rows_in_a_file_are_the_same_target(tasks: Tasks, tmp_path: Path) -> None:
    lines = [
        {"prompt": prompt, "completion": document["options"][document["gold"]], "choices": document["options"]}
        for prompt, document in zip(expected("test"), documents("test"), strict=True)
    ]
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("dev", "test"):
        text = "".join(json.dumps({**line, "answer": line["completion"]}) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    assert read(str(folder), "test") == read(tasks.add("mine"), "test")


def test_an_unknown_task_is_an_error_that_names_the_nearest(tasks: Tasks) -> None:
    tasks.add("geography")
    with pytest.raises(TargetError, match="perhaps geography"):
        find_target(f"lm-eval:geografy@{tasks.folder}")


def test_data_that_cannot_be_reached_is_an_error_of_its_own(tasks: Tasks) -> None:
    target = tasks.add("mine")
    (tasks.folder / "mine-test.jsonl").unlink()
    with pytest.raises(TargetError, match="data that can be reached"):
        find_target(target)


def test_a_task_that_the_harness_cannot_load_is_an_error_that_repeats_its_reason(tasks: Tasks) -> None:
    with pytest.raises(TargetError, match="no_such_key"):
        find_target(tasks.add("mine", no_such_key=1))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"output_type": "loglikelihood_rolling", "doc_to_choice": None, "doc_to_target": "q"},
            "loglikelihood_rolling",
        ),
        ({"output_type": "generate_until", "doc_to_choice": None, "doc_to_target": 0}, "in place of a reference"),
        ({"doc_to_text": 0}, "one context for each choice"),
        ({"doc_to_target": [0, 1]}, "one right answer"),
        ({"output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "options"}, "one right answer"),
        ({"doc_to_image": ["q"]}, "images"),
        ({"unsafe_code": True}, "generated code"),
    ],
)
def test_a_task_that_evoray_cannot_score_is_refused_with_the_reason(
    tasks: Tasks, settings: dict[str, Any], reason: str
) -> None:
    if settings.get("output_type"):
        settings = {**settings, "metric_list": [{"metric": "exact_match"}]}
    with pytest.raises(TargetError, match=reason):
        read(tasks.add("mine", **settings), "test")
