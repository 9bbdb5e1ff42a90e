from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from evoray.errors import ConfigError, StageError
from evoray.evaluation.metric import Metric, find_metric, load_metric
from evoray.records import Message, Row

ROW = Row(id="row-7", messages=(Message("user", "q"), Message("assistant", "yes")), answer="yes")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, which is not on the path, as for a console script; imports are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return path


def judged(name: str, response: str = "yes") -> float | None:
    return load_metric(pickle.loads(pickle.dumps(find_metric(name))))(ROW, response)


def test_a_metric_of_the_current_directory_gets_row_and_response(folder: Path) -> None:
    write(folder / "mine.py", "def same(row, response):\n    return response == row.answer\n")
    assert judged("mine:same") == 1.0
    assert judged("mine:same", "no") == 0.0


def test_a_metric_in_a_package_may_import_what_lies_beside_it(folder: Path) -> None:
    write(folder / "metrics_of_mine" / "__init__.py", "from .parts.inner import half as whole\n")
    write(
        folder / "metrics_of_mine" / "parts" / "inner.py", "from beside_it import HALF\n\nhalf = lambda row, r: HALF\n"
    )
    write(folder / "beside_it.py", "HALF = 0.5\n")
    assert judged("metrics_of_mine.parts.inner:half") == 0.5
    assert judged("metrics_of_mine:whole") == 0.5


def test_the_driver_finds_a_metric_without_running_it(folder: Path) -> None:
    file = write(folder / "mine.py", "raise SystemExit\n")
    assert find_metric("mine:f").file == str(file)
    assert "mine" not in sys.modules


def test_the_current_directory_comes_before_what_is_installed(folder: Path) -> None:
    write(folder / "hypothesis_jsonschema_metric.py", "f = lambda row, response: True\n")
    elsewhere = write(folder / "lib" / "hypothesis_jsonschema_metric.py", "f = lambda row, response: False\n")
    sys.path.insert(0, str(elsewhere.parent))
    assert judged("hypothesis_jsonschema_metric:f") == 1.0


def test_an_edited_metric_has_another_name_and_is_what_then_judges(folder: Path) -> None:
    write(folder / "mine.py", "f = lambda row, response: True\n")
    first = find_metric("mine:f")
    assert load_metric(first)(ROW, "") == 1.0
    write(folder / "mine.py", "# edited\nf = lambda row, response: 0.25\n")
    second = find_metric("mine:f")
    assert first.digest != second.digest
    assert load_metric(second)(ROW, "") == 0.25
    with pytest.raises(ConfigError, match="another content"):
        load_metric(first)


def test_a_worker_that_does_not_reach_the_file_takes_the_module_of_its_own_path(folder: Path) -> None:
    """As a job on a cluster does, whose working directory lies elsewhere on every node."""
    file = write(folder / "here" / "mine.py", "f = lambda row, response: True\n")
    found = find_metric("here.mine:f")
    gone = Metric(module="mine", function="f", file="/gone/mine.py", digest=found.digest)
    with pytest.raises(ConfigError, match="cannot find"):
        load_metric(gone)
    sys.path.append(str(file.parent))
    assert load_metric(gone)(ROW, "") == 1.0


@pytest.mark.parametrize("name", ["absent:f", "absent.inner:f", "mine.inner:f", "__main__:f", "sys:exit"])
def test_a_module_without_a_file_is_refused_with_a_remedy(folder: Path, name: str) -> None:
    write(folder / "mine.py", "")
    with pytest.raises(ConfigError, match="no file of a module") as refused:
        find_metric(name)
    assert "run evoray in the folder that holds" in refused.value.remedy


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "has no function 'f'"),
        ("f = 3\n", "has no function 'f'"),
        ("import absent_module\n", "cannot be imported: ModuleNotFoundError"),
        ("def f(:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused(folder: Path, source: str, reason: str) -> None:
    write(folder / "mine.py", source)
    with pytest.raises(ConfigError, match=reason):
        load_metric(find_metric("mine:f"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("True", 1.0), ("False", 0.0), ("0.25", 0.25), ("1", 1.0), ("np.float32(0.5)", 0.5), ("np.bool_(True)", 1.0)],
)
def test_verdicts_are_booleans_or_numbers_from_0_to_1(folder: Path, value: str, expected: float) -> None:
    write(folder / "mine.py", f"import numpy as np\nf = lambda row, response: {value}\n")
    verdict = judged("mine:f")
    assert verdict == expected
    assert type(verdict) is float


@pytest.mark.parametrize("value", ["None", "1.5", "-0.1", "float('nan')", "float('inf')", "'yes'", "1j", "[1]"])
def test_any_other_value_is_refused_with_the_row_and_the_value(folder: Path, value: str) -> None:
    write(folder / "mine.py", f"f = lambda row, response: {value}\n")
    with pytest.raises(StageError) as refused:
        judged("mine:f")
    assert "row-7" in refused.value.received
    assert repr(eval(value, {"float": float})) in refused.value.received


def test_an_error_of_the_metric_names_the_row(folder: Path) -> None:
    write(folder / "mine.py", "f = lambda row, response: int(response)\n")
    with pytest.raises(StageError, match="row-7: ValueError"):
        judged("mine:f")
    assert judged("mine:f", "1") == np.float64(1)
