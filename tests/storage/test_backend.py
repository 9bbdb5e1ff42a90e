"""The storage seam: whole objects, put-if-absent, and folders of files behind it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from evoray.errors import ConfigError, StorageError
from evoray.models.folder import Folder
from evoray.storage import Storage


def test_json_and_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    table = pa.table({"id": ["a", "b"], "feature": [[1.0, 2.0], [3.0, 4.0]]})
    storage.write_json("deep/er/value.json", {"b": [1, None], "a": "ü"})
    storage.write_table("table.parquet", table)
    assert storage.read_json("deep/er/value.json") == {"b": [1, None], "a": "ü"}
    assert storage.read_table("table.parquet").equals(table)
    assert storage.read_table("table.parquet", ["id"]).column_names == ["id"]
    assert list(storage.keys()) == ["deep/er/value.json", "table.parquet"]
    assert list(storage.keys("deep")) == ["deep/er/value.json"]


def test_equal_json_values_give_equal_bytes(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write_json("one", {"a": 1, "b": 2})
    storage.write_json("two", {"b": 2, "a": 1})
    assert storage.read("one") == storage.read("two")


def test_create_writes_once_and_never_replaces(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert storage.create("key", b"first")
    assert not storage.create("key", b"second")
    assert storage.read("key") == b"first"
    storage.write("key", b"third")
    assert storage.read("key") == b"third"


def test_a_missing_object_is_named_in_the_error(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert not storage.exists("nothing.json")
    with pytest.raises(StorageError, match=r"nothing\.json"):
        storage.read("nothing.json")
    storage.delete("nothing.json")


def test_a_relative_root_is_made_absolute_where_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("run")
    storage.write("key", b"value")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    travelled = pickle.loads(pickle.dumps(storage))
    assert travelled.uri == str(tmp_path / "run")
    assert travelled.read("key") == b"value"
    assert Storage(f"file://{tmp_path}/run").read("key") == b"value"
    assert storage.child("below").uri == f"{tmp_path}/run/below"


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="folder that can be created"):
        Storage(tmp_path / "file" / "run")


def test_a_folder_is_uploaded_and_fetched_unchanged(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights.bin").write_bytes(b"\x00\x01")
    (tmp_path / "source" / "config.json").write_text("{}")
    folder = Folder(storage=Storage(tmp_path / "run"), prefix="rounds/0001/adapter")
    folder.upload(tmp_path / "source")
    fetched = Path(pickle.loads(pickle.dumps(folder)).fetch())
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        "weights.bin": b"\x00\x01",
        "config.json": b"{}",
    }


def test_a_path_given_by_the_user_is_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "config.json").write_text("{}")
    assert Path(Folder.at(str(tmp_path / "adapter")).fetch()).joinpath("config.json").read_text() == "{}"


def test_what_lies_below_a_prefix_is_measured_and_cleared(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for key, data in {"a/b/one.json": b"123", "a/two.parquet": b"12345", "ab.json": b"1", "c.json": b"12"}.items():
        storage.write(key, data)
    assert (storage.size(), storage.size("a"), storage.size("a", ".parquet")) == (11, 8, 5)
    storage.clear("a")
    storage.clear("absent")
    assert list(storage.keys()) == ["ab.json", "c.json"]
    assert not (tmp_path / "a").exists()
