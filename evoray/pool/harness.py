"""A target out of a task of EleutherAI's LM Evaluation Harness, which has to be installed beside evoray.

A document becomes a row: its prompt is what the harness writes before an answer without examples (description, text,
the answer's opening), its completion the right answer. A multiple-choice task gives `choices` and `answer`; where the
harness has the model generate, the reference is what `evaluation.extract` reads the gold answer from. dev is the task's
validation documents, or its training documents where it has none; test is its test documents.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from evoray.config.task import PREFIX, TaskName
from evoray.errors import TargetError
from evoray.pool.reading import ROW_COLUMN, columns_from_rows
from evoray.pool.rows import normalise, rows_from_table
from evoray.records import Quarantined, Row, UnitSpan

_INSTALL = "pip install 'lm-eval>=0.4.13,<0.5' on every node, or name files as target"
_FORMS = ("multiple_choice", "generate_until", "loglikelihood")


@dataclass(frozen=True, kw_only=True)
class HarnessTarget:
    """The tasks that a name stands for, loaded and checked: one, or those of a group or tag by their names."""

    name: TaskName
    tasks: dict[str, Any]  # lm_eval's ConfigurableTask

    @property
    def splits(self) -> dict[str, str]:
        """What there is, by split (dev, test): how messages name it. test is absent where the tasks have none."""
        tested = any(task.has_test_docs() for task in self.tasks.values())
        return {split: f"{self.name} ({split})" for split in (("dev", "test") if tested else ("dev",))}

    def read(self, split: Literal["dev", "test"]) -> tuple[list[Row], list[Quarantined]]:
        """The usable rows of a split in the order of its documents, and those that are not usable.

        Raises TargetError for documents whose answer evoray cannot score.
        """
        raw: list[dict[str, Any]] = []
        for name, task in self.tasks.items():
            with _explained(f"the {split} documents of {PREFIX}{name}"):
                found = [_row(name, task, document) for document in _documents(task, split)]
            raw += [{**row, "subtask": name} for row in found] if len(self.tasks) > 1 else found
        if not raw:
            return [], []
        table = columns_from_rows([{**row, ROW_COLUMN: place} for place, row in enumerate(raw)])
        span = UnitSpan(unit=0, file=self.splits[split], format="jsonl", start=0, rows=len(raw))
        usable, refused = normalise(table, span)
        return rows_from_table(usable), refused


def open_task(target: str) -> HarnessTarget | None:
    """The tasks that a target names; None where it is a path.

    Raises TargetError where the harness is not installed, does not know the task or cannot reach its data, and for a
    task whose answers evoray cannot score or whose splits it cannot keep apart.
    """
    name = TaskName.of(target)
    if name is None:
        return None
    manager = _manager(name)
    if name.name not in manager.task_index:
        near = difflib.get_close_matches(name.name, manager.all_tasks, n=3)
        known = f"one of {len(manager.all_tasks)} tasks, groups and tags" if name.folder is None else "a task in it"
        remedy = f"perhaps {' or '.join(near)}" if near else "`lm-eval ls tasks` lists them"
        raise TargetError(f"{name}, which is unknown", known, remedy)
    with _explained(str(name)):
        tasks = dict(sorted(manager.load(name.name)["tasks"].items()))
    for one, task in tasks.items():
        _check(one, task)
    tested = [one for one, task in tasks.items() if task.has_test_docs()]
    if tested and len(tested) < len(tasks):
        others = ", ".join(sorted(set(tasks) - set(tested))[:5])
        raise TargetError(f"{name}: no test documents of {others}", "test documents of all or none", "name one task")
    return HarnessTarget(name=name, tasks=tasks)


def _manager(name: TaskName) -> Any:
    """lm_eval's index of tasks: of a folder alone, since to read all that come with it takes many seconds."""
    if name.folder is None:
        return _shipped()
    folder = Path(name.folder).expanduser()
    if not folder.is_dir():
        raise TargetError(f"{name}: no folder {folder}", "a local folder with the task's YAML", "correct the folder")
    with _explained(str(name)):
        return _lm_eval().TaskManager(include_path=str(folder), include_defaults=False)


@cache
def _shipped() -> Any:
    return _lm_eval().TaskManager()


def _lm_eval() -> Any:
    try:
        import lm_eval.tasks
    except ImportError as error:
        raise TargetError(
            f"a target {PREFIX}..., and {error}", "the LM Evaluation Harness (lm_eval) beside evoray", _INSTALL
        ) from error
    return lm_eval.tasks


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn whatever the harness, its data or a task's own code raises into a TargetError."""
    try:
        yield
    except TargetError:
        raise
    except Exception as error:
        from datasets.exceptions import DatasetsError

        if isinstance(error, OSError | DatasetsError):
            raise TargetError(
                f"{what}: {type(error).__name__}: {error}",
                "data that can be reached: on the hub, in its cache, or in the files that the task names",
                "check the network and those files (relative ones start from the current directory)",
            ) from error
        raise TargetError(
            f"{what}: {type(error).__name__}: {error}",
            "a task that the harness can load",
            "correct its YAML: `lm-eval validate` looks at it",
        ) from error


def _check(name: str, task: Any) -> None:
    """Raise TargetError for a task that has no likeness among evoray's rows."""
    config = task.config
    reasons = {
        "a class in Python of its own": type(task).__name__ != "ConfigurableTask",
        f"output_type: {config.output_type}": config.output_type not in _FORMS,
        "images or sound": getattr(task, "MULTIMODAL", False),
        "generated code that is run": getattr(task, "UNSAFE_CODE", False),
        "one context for each choice": bool(task.multiple_input),
        "a rule of its own for what is right": config.output_type == "multiple_choice" and config.process_results,
        "a number in place of a reference": config.output_type != "multiple_choice"
        and isinstance(config.doc_to_target, int),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise TargetError(
            f"{PREFIX}{name} with {' and '.join(found)}",
            f"a task of text with one right answer, in the form {', '.join(_FORMS)}",
            "name another task, or write its rows into files as a target of your own",
        )
    if _dev(task) is None:
        raise TargetError(
            f"{PREFIX}{name}: splits training {config.training_split}, validation {config.validation_split}, "
            f"test {config.test_split}",
            "validation or training documents that are not the test documents",
            "name another task, or write its rows into files as a target of your own",
        )


def _dev(task: Any) -> Literal["validation", "training"] | None:
    """Which documents are dev: never those that test has as well."""
    config = task.config
    for split, held in (("validation", config.validation_split), ("training", config.training_split)):
        if held is not None and held != config.test_split:
            return split  # type: ignore[return-value]
    return None


def _documents(task: Any, split: Literal["dev", "test"]) -> Any:
    if split == "test":
        return task.test_docs()
    return task.validation_docs() if _dev(task) == "validation" else task.training_docs()


def _row(name: str, task: Any, document: Any) -> dict[str, Any]:
    """A document as a raw row: without a completion, and so set aside, where its answer is none of the choices."""
    prompt = task.fewshot_context(document, num_fewshot=0, gen_prefix=task.doc_to_prefix(document))
    gold = task.doc_to_target(document)
    if isinstance(gold, list) and len(gold) == 1:
        gold = gold[0]
    if isinstance(gold, list | dict):
        raise TargetError(
            f"{PREFIX}{name}: a document with the answer {gold!r}",
            "one right answer a document",
            "name another task, or write its rows into files as a target of your own",
        )
    if task.config.doc_to_choice is None:
        return {"prompt": prompt, "completion": None if gold is None else str(gold)}
    choices = [str(choice) for choice in task.doc_to_choice(document)]
    answer = _chosen(choices, gold)
    if task.config.output_type != "multiple_choice":
        return {"prompt": prompt, "completion": answer}
    return {"prompt": prompt, "completion": answer, "choices": choices, "answer": answer}


def _chosen(choices: list[str], gold: Any) -> str | None:
    """The right choice, by its place or its text; None where that is neither (hidden answers are -1)."""
    if isinstance(gold, int):
        return choices[gold] if 0 <= gold < len(choices) else None
    return gold if gold in choices else None
