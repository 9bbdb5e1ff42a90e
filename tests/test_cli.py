"""The command line: every wrong input ends with exit code 2 and says what was wrong, what is right and what to do."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoray.report.display import event_line
from tests.commands import Answer, Command, assert_refusal
from tests.conftest import FinishedRun

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


class TestConfigs:
    def test_an_unknown_key_is_answered_with_the_nearest(self, evoray: Command, config: Path) -> None:
        message = evoray.refused("run", config, "--set", "selection.lamda=1")
        assert "unknown config key 'selection.lamda'" in message
        assert "did you mean 'lambda'?" in message

    def test_an_unknown_selector_is_answered_with_the_known_ones(
        self, evoray: Command, config: Path, task: Path, tmp_path: Path
    ) -> None:
        assert "one of all, deita" in evoray.refused("run", config, "--set", "selection.selector=best")
        message = evoray.refused(
            "select", "--pool", task / "pool.jsonl", "--k", 2, "--out", tmp_path / "o", "--selector", "randon"
        )
        assert "did you mean 'random'?" in message

    def test_a_missing_config_is_named(self, evoray: Command, tmp_path: Path) -> None:
        assert "no file" in evoray.refused("run", tmp_path / "absent.yaml")

    def test_a_second_round_with_all_rows_is_refused(self, evoray: Command, config: Path) -> None:
        assert "set rounds: 1" in evoray.refused("run", config, "--set", "selection.selector=all")

    def test_labels_that_cannot_be_read_are_refused_before_any_work(
        self, evoray: Command, config: Path, tmp_path: Path
    ) -> None:
        assert "labels" in evoray.refused("run", config, "--set", "labels=/absent.parquet")
        assert not (tmp_path / "run" / "pool").exists()


class TestHowMuchIsShown:
    """A selection at random: of a pool alone, without a model."""

    @pytest.fixture(autouse=True)
    def loggers(self) -> Iterator[None]:
        levels = {name: logging.getLogger(name).level for name in ("", "evoray")}
        yield
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)

    def answer(self, evoray: Command, task: Path, *before: str) -> Answer:
        answer = evoray(
            *before, "select", "--pool", task / "pool.jsonl", "--selector", "random", "--k", 4, "--out", task / "out"
        )
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["rows"] == 4
        return answer

    def test_quiet_shows_the_result_alone(self, evoray: Command, task: Path) -> None:
        assert self.answer(evoray, task, "--quiet").err == ""

    def test_verbose_shows_each_event_as_it_is_written(self, evoray: Command, task: Path) -> None:
        plain, verbose = self.answer(evoray, task), self.answer(evoray, task, "--verbose")
        events = [json.loads(line) for line in (task / "out" / "events.jsonl").read_text().splitlines()]
        assert [event_line(event) for event in events[len(events) // 2 :]] == [
            line for line in verbose.err.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)
        ]
        assert "align and select: begins" in verbose.err
        assert "align and select: done in" in plain.err
        assert "begins" not in plain.err
        assert not re.search(r"^\d\d:", plain.err, re.MULTILINE)

    def test_a_flag_goes_before_a_variable_of_the_environment(
        self, evoray: Command, task: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EVORAY_QUIET", "1")
        assert self.answer(evoray, task).err == ""
        assert "begins" in self.answer(evoray, task, "--verbose").err
        monkeypatch.setenv("EVORAY_VERBOSE", "1")
        assert "leave one out" in evoray.refused("status", task)
        assert "leave one out" in evoray.refused("--quiet", "--verbose", "status", task)

    def test_quiet_shows_errors(self, evoray: Command, tmp_path: Path) -> None:
        assert "no file" in evoray.refused("--quiet", "run", tmp_path / "absent.yaml")


class TestPools:
    def refusal(self, evoray: Command, config: Path, task: Path, content: bytes | None, name: str) -> str:
        if content is not None:
            (task / name).write_bytes(content)
        return evoray.refused("run", config, "--set", f"pool={task / name}")

    def test_a_missing_one_is_named(self, evoray: Command, config: Path, task: Path) -> None:
        assert "absent.jsonl" in self.refusal(evoray, config, task, None, "absent.jsonl")

    def test_a_corrupt_file_is_named(self, evoray: Command, config: Path, task: Path) -> None:
        message = self.refusal(evoray, config, task, b"PAR1 and then nothing of the kind", "broken.parquet")
        assert "broken.parquet" in message

    def test_an_empty_one_is_refused(self, evoray: Command, config: Path, task: Path) -> None:
        assert "no rows" in self.refusal(evoray, config, task, b"", "empty.jsonl")

    def test_columns_of_no_known_layout_are_listed(self, evoray: Command, config: Path, task: Path) -> None:
        message = self.refusal(evoray, config, task, b"question_text,reply_text\na,b\n", "odd.csv")
        assert "question_text" in message
        assert "instruction" in message

    def test_too_many_unusable_rows_stop_the_run_and_their_reasons_are_kept(
        self, evoray: Command, config: Path, task: Path, tmp_path: Path
    ) -> None:
        rows = (task / "pool.jsonl").read_bytes()[:2000] + b'\n{"instruction": "", "output": ""}' * 9
        message = self.refusal(evoray, config, task, rows, "poor.jsonl")
        assert "reading.max_quarantined" in message
        assert list((tmp_path / "run" / "quarantine").rglob("*.parquet"))

    def test_more_picks_than_usable_rows_are_refused_before_any_feature_is_computed(
        self, evoray: Command, config: Path, task: Path, tiny_model_dir: Path, tmp_path: Path
    ) -> None:
        message = evoray.refused("run", config, "--set", "selection.k=61", "--set", "rounds=1")
        assert "selection.k = 61, and 60 usable rows" in message
        assert not (tmp_path / "run" / "features").exists()
        assert not (tmp_path / "run" / "warmup").exists()
        message = evoray.refused(
            "select", "--pool", task / "pool.jsonl", "--target", task / "target", "--model", tiny_model_dir,
            "--k", 61, "--out", tmp_path / "selected",
        )  # fmt: skip
        assert "60 usable rows" in message
        assert not (tmp_path / "selected" / "features").exists()
        assert not (tmp_path / "selected" / "warmup").exists()

    def test_rounds_that_together_need_more_rows_than_there_are_are_refused_before_the_first(
        self, evoray: Command, config: Path, tmp_path: Path
    ) -> None:
        message = evoray.refused("run", config, "--set", "selection.k=31")
        assert "selection.k = 31 in each of 2 rounds, and 60 usable rows" in message
        assert not (tmp_path / "run" / "warmup").exists()


class TestTargets:
    def test_an_empty_one_is_refused(self, evoray: Command, config: Path, task: Path) -> None:
        for path in (task / "target").iterdir():
            path.write_text("")
        assert "align.jsonl" in evoray.refused("run", config)

    def test_a_missing_one_is_named(self, evoray: Command, config: Path, task: Path) -> None:
        shutil.rmtree(task / "target")
        assert f"{task}/target" in evoray.refused("run", config)

    def test_a_folder_without_split_files_is_explained(self, evoray: Command, config: Path, task: Path) -> None:
        (task / "target" / "align.jsonl").rename(task / "target" / "rows.jsonl")
        assert "dev" in evoray.refused("run", config)


class TestModels:
    def test_a_missing_directory_is_named_before_the_pool_is_read(
        self, evoray: Command, config: Path, tmp_path: Path
    ) -> None:
        message = evoray.refused("run", config, "--set", "model=/absent/model")
        assert "'/absent/model'" in message
        assert not (tmp_path / "run" / "pool").exists()

    def test_a_hub_id_that_cannot_be_had_is_named_before_the_pool_is_read(
        self, evoray: Command, config: Path, tmp_path: Path
    ) -> None:
        assert "'nobody/nothing'" in evoray.refused("run", config, "--set", "model=nobody/nothing")
        assert not (tmp_path / "run" / "pool").exists()

    def test_a_folder_that_holds_no_model_is_named(self, evoray: Command, config: Path, tmp_path: Path) -> None:
        (tmp_path / "hollow").mkdir()
        assert "hollow" in evoray.refused("run", config, "--set", f"model={tmp_path / 'hollow'}")

    def test_a_missing_adapter_is_named_and_not_created(
        self, evoray: Command, task: Path, tiny_model_dir: Path, tmp_path: Path
    ) -> None:
        common = ("--model", tiny_model_dir, "--adapter", tmp_path / "absent")
        message = evoray.refused("featurize", "--pool", task / "pool.jsonl", "--out", tmp_path / "f", *common)
        assert "adapter_config.json" in message
        message = evoray.refused("evaluate", "--target", task / "target", *common)
        assert "adapter_config.json" in message
        assert not (tmp_path / "absent").exists()


class TestFeatureFiles:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        pq.write_table(pa.table({"id": ["a", "b"], "feature": [[1.0, 0.0], [0.0, 1.0]]}), tmp_path / "target.parquet")
        return tmp_path / "target.parquet"

    def refusal(self, evoray: Command, table: pa.Table, target: Path, k: int) -> str:
        path = target.with_name("features.parquet")
        pq.write_table(table, path)
        return evoray.refused(
            "select", "--features", path, "--target-features", target, "--k", k, "--out", target.with_name("out")
        )

    def test_a_missing_column_is_refused(self, evoray: Command, target: Path) -> None:
        assert "columns id and feature" in self.refusal(evoray, pa.table({"id": ["a"]}), target, 1)

    def test_a_row_that_is_not_a_number_is_refused(self, evoray: Command, target: Path) -> None:
        table = pa.table({"id": ["a", "nan-row"], "feature": [[1.0, 0.0], [float("nan"), 0.0]]})
        assert "id nan-row" in self.refusal(evoray, table, target, 1)

    def test_more_picks_than_rows_are_refused(self, evoray: Command, target: Path) -> None:
        table = pa.table({"id": ["a", "b"], "feature": [[1.0, 0.0], [0.0, 1.0]]})
        assert "k = 3, and 2 usable rows" in self.refusal(evoray, table, target, 3)

    def test_another_dimension_than_the_target_has_is_refused(self, evoray: Command, target: Path) -> None:
        table = pa.table({"id": ["a", "b"], "feature": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]})
        assert "3" in self.refusal(evoray, table, target, 1)

    def test_features_without_those_of_the_target_are_refused(self, evoray: Command, target: Path) -> None:
        message = evoray.refused("select", "--features", target, "--k", 1, "--out", target.with_name("out"))
        assert "--target-features" in message


class TestPotentials:
    def refusal(self, evoray: Command, potentials: Path, *arguments: object) -> str:
        out = potentials.with_name("out")
        message = evoray.refused("score", "--potentials", potentials, "--out", out, *arguments)
        assert not list(out.rglob("*.parquet"))
        return message

    def written(self, tmp_path: Path, dim: int = 2, **metadata: object) -> Path:
        """Potentials over features that were made elsewhere."""
        about = {"eps": 0.1, "rho": None, "recipe": None, **metadata}
        values = pa.array([1.0] + [0.0] * (dim - 1), pa.float32())
        table = pa.table(
            {"id": ["t"], "weight": [1.0], "g": [0.0], "feature": pa.FixedSizeListArray.from_arrays(values, dim)},
            metadata={"evoray": json.dumps(about)},
        )
        pq.write_table(table, tmp_path / "potentials.parquet")
        return tmp_path / "potentials.parquet"

    @pytest.mark.parametrize("name", ["absent", "absent.parquet", "absent/absent.parquet", "."])
    def test_missing_ones_are_named_and_nothing_is_created(self, evoray: Command, tmp_path: Path, name: str) -> None:
        message = evoray.refused("score", "--potentials", tmp_path / name, "--pool", "p", "--out", tmp_path / "out")
        assert f"no potentials at {tmp_path / name}" in message
        assert not list(tmp_path.iterdir())

    def test_files_that_evoray_did_not_write_are_refused(self, evoray: Command, tmp_path: Path) -> None:
        path = tmp_path / "features.parquet"
        pq.write_table(pa.table({"id": ["a"], "feature": [[1.0, 0.0]]}), path)
        assert "columns id, feature, without" in self.refusal(evoray, path, "--features", path)
        path.write_bytes(b"no parquet at all")
        assert "potentials.parquet" in self.refusal(evoray, path, "--features", path)
        for wrong in ({"eps": "small"}, {"eps": -1.0}, {"recipe": {"model": "m"}}, {"recipe": 7}):
            found = self.written(tmp_path, **wrong)
            assert "as evoray wrote it" in self.refusal(evoray, found, "--features", found)

    def test_a_pool_alone_does_not_do_where_the_features_were_made_elsewhere(
        self, evoray: Command, task: Path, tmp_path: Path
    ) -> None:
        found = self.written(tmp_path)
        assert "add --features" in self.refusal(evoray, found, "--pool", task / "pool.jsonl")
        assert "add --pool or --features" in self.refusal(evoray, found)

    @pytest.mark.slow
    def test_features_of_another_dimension_are_refused_with_both(self, evoray: Command, tmp_path: Path) -> None:
        found, features = self.written(tmp_path, dim=3), tmp_path / "features.parquet"
        pq.write_table(pa.table({"id": ["a"], "feature": [[1.0, 0.0]]}), features)
        message = self.refusal(evoray, found, "--features", features)
        assert "features of 2 dimensions, potentials over features of 3" in message


@pytest.mark.slow
class TestProcesses:
    """What only a process of its own shows: its exit code, and everything that it writes."""

    def end_of(self, *arguments: object) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "evoray.cli", *map(str, arguments)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    def test_a_missing_model_ends_with_a_message_and_nothing_else(self, config: Path) -> None:
        answer = self.end_of("run", config, "--set", "model=/absent/model")
        assert_refusal(answer)
        assert answer.out == ""

    def test_an_unknown_key_ends_with_a_message_and_nothing_else(self, config: Path) -> None:
        answer = self.end_of("run", config, "--set", "round=3")
        assert_refusal(answer)
        assert answer.err.startswith("error: received: ")

    def test_a_cluster_that_does_not_answer_is_named(self, config: Path) -> None:
        answer = self.end_of("run", config, "--address", "127.0.0.1:1")
        assert_refusal(answer)
        assert "127.0.0.1:1" in answer.err


@pytest.mark.slow
class TestCommands:
    """Every command once on tiny data."""

    def test_report_and_status_show_a_finished_run(self, evoray: Command, finished_run: FinishedRun) -> None:
        answer = evoray("report", finished_run.out)
        assert answer.code == 0
        assert answer.out.strip() == (finished_run.out / "report.md").read_text().strip()
        assert answer.err.strip() == f"Page: {finished_run.out / 'report.html'}"
        page = evoray("report", finished_run.out, "--form", "html")
        assert page.out.strip() == (finished_run.out / "report.html").read_text().strip()
        assert "markdown or html" in evoray.refused("report", finished_run.out, "--form", "pdf")
        facts = evoray.shown("status", finished_run.out)
        assert facts["finished"] is True
        assert facts["rounds"]["2"][-1] == "control_evaluated"
        assert facts["lock"] is None

    def test_featurize_and_select_from_what_it_wrote(
        self, evoray: Command, task: Path, tiny_model_dir: Path, tmp_path: Path
    ) -> None:
        settings = ("--set", "lora.rank=2", "--set", "features.warmup.rows=8", "--set", "cluster.workers=2")
        pool = evoray.shown(
            "featurize", "--pool", task / "pool.jsonl", "--model", tiny_model_dir, "--out", tmp_path / "f",
            "--dim", 64, *settings,
        )  # fmt: skip
        assert (pool["rows"], pool["quarantined"]) == (60, 0)
        (adapter,) = (tmp_path / "f" / "warmup").glob("*/checkpoint-1")
        target = evoray.shown(
            "featurize", "--pool", task / "target" / "align.jsonl", "--model", tiny_model_dir, "--out", tmp_path / "t",
            "--dim", 64, "--adapter", adapter, *settings,
        )  # fmt: skip
        chosen = evoray.shown(
            "select", "--features", pool["features"], "--target-features", target["features"],
            "--pool", task / "pool.jsonl", "--k", 5, "--out", tmp_path / "s", "--set", "selection.steps=4",
            "--set", "selection.lambda=0.3", "--set", "selection.r=0.5",
        )  # fmt: skip
        assert (chosen["rows"], chosen["usable"], chosen["lambda"], chosen["r"]) == (5, 60, 0.3, 0.5)
        table = pq.read_table(chosen["selected"])
        assert table.column_names == [
            "id", "source", "instruction", "output", "evoray_messages", "evoray_rank", "evoray_weight",
            "evoray_potential", "evoray_similarity", "evoray_nearest", "evoray_round",
        ]  # fmt: skip
        assert table["evoray_rank"].to_pylist() == [0, 1, 2, 3, 4]
        assert all(name.startswith("align-") for name in table["evoray_nearest"].to_pylist())
        scored = evoray.shown(
            "score", "--potentials", tmp_path / "s", "--features", pool["features"], "--out", tmp_path / "scores"
        )
        assert (scored["rows"], scored["quarantined"]) == (60, 0)
        scores = pq.read_table(scored["scores"])["potential"].to_pylist()
        assert scores == sorted(scores)

    def test_select_from_a_pool_and_a_target(
        self, evoray: Command, task: Path, tiny_model_dir: Path, tmp_path: Path
    ) -> None:
        chosen = evoray.shown(
            "select", "--pool", task / "pool.jsonl", "--target", task / "target", "--model", tiny_model_dir,
            "--k", 4, "--out", tmp_path / "s", "--set", "selection.steps=3", "--set", "features.dim=64",
            "--set", "selection.lambda=0.3", "--set", "selection.r=0.5", "--set", "features.warmup.rows=8",
        )  # fmt: skip
        rows = pq.read_table(chosen["selected"]).to_pylist()
        assert len({row["id"] for row in rows}) == 4
        assert json.loads((tmp_path / "s" / "selection.json").read_text())["usable"] == 60

    def test_random_selection_needs_no_model(self, evoray: Command, task: Path, tmp_path: Path) -> None:
        def ids(seed: int, *named: str) -> list[str]:
            chosen = evoray.shown(
                "select", "--pool", task / "pool.jsonl", *named, "--k", 4, "--out", tmp_path / f"s{seed}",
                "--seed", seed,
            )  # fmt: skip
            table = pq.read_table(chosen["selected"])
            assert {"instruction", "output", "source", "evoray_rank"} <= set(table.column_names)
            found: list[str] = table["id"].to_pylist()
            return found

        assert ids(1, "--selector", "random") != ids(2, "--set", "selection.selector=random")

    def test_train_and_evaluate_with_what_it_wrote(
        self, evoray: Command, task: Path, tiny_model_dir: Path, tmp_path: Path
    ) -> None:
        trained = evoray.shown(
            "train", "--data", task / "target" / "align.jsonl", "--model", tiny_model_dir, "--out", tmp_path / "m",
            "--set", "lora.rank=2", "--set", "training.epochs=2", "--set", "training.workers=1",
        )  # fmt: skip
        assert (trained["rows"], trained["steps"]) == (12, 4)
        assert {path.name for path in Path(trained["adapter"]).iterdir()} >= {
            "adapter_config.json", "adapter_model.safetensors", "moments.safetensors", "training.json",
        }  # fmt: skip
        facts = evoray.shown(
            "evaluate", "--model", tiny_model_dir, "--adapter", trained["adapter"], "--target", task / "target",
            "--split", "test", "--out", tmp_path / "deep" / "score.json",
        )  # fmt: skip
        assert facts["rows"] == 12
        assert facts["loss_low"] <= facts["loss"] <= facts["loss_high"]
        assert 0 <= facts["accuracy"] <= 1
        assert json.loads((tmp_path / "deep" / "score.json").read_text()) == facts
