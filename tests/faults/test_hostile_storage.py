"""What lies in a store may have been damaged, or put there by another: it is checked, and never run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evoray.errors import ModelError, StorageError
from evoray.models.loading import load_encoder, load_model, load_tokenizer, load_trained
from evoray.storage import Storage, UnitStore


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.witness, "the pickle was run")


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "witness"


@pytest.fixture
def pickled(witness: Path) -> bytes:
    data = pickle.dumps({"weight": Planted(witness)})
    pickle.loads(data)
    assert witness.exists(), "the trap works"
    witness.unlink()
    return data


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_pickled_weights_are_not_run(
    name: str, pickled: bytes, witness: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickled)
    with pytest.raises(ModelError):
        load_model(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"safetensors"):
        load_trained(str(tiny_model_dir), str(folder))
    assert not witness.exists()


@pytest.mark.parametrize("load", [load_model, load_tokenizer, load_encoder])
def test_code_that_comes_with_a_model_is_not_run_whatever_the_terminal_says(
    load: Callable[[str], Any], witness: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    classes = {"AutoConfig": "Config", "AutoModelForCausalLM": "Model", "AutoModel": "Model"}
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "planted"}
    config["auto_map"] = {name: f"planted.{kind}" for name, kind in classes.items()}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": [None, "planted.Tokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "planted.py").write_text(f"from pathlib import Path; Path({str(witness)!r}).write_text('run')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with suppress(ModelError):  # a tokenizer loads without its code
        load(str(folder))
    assert not witness.exists()


def test_a_pickle_in_place_of_a_unit_is_refused_and_not_run(pickled: bytes, witness: Path, tmp_path: Path) -> None:
    store = UnitStore(Storage(str(tmp_path)), "features/x")
    commit = store.commit(3, pa.table({"a": [1]}))
    (tmp_path / "features/x" / commit.file).write_bytes(pickled)
    with pytest.raises(StorageError, match="changed after it was written"):
        store.read(commit)
    store.storage.write("table.parquet", pickled)
    with pytest.raises(StorageError, match=r"table\.parquet"):
        store.storage.read_table("table.parquet")
    assert not witness.exists()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 100_000,
        b'{"unit": 3}',
        b'{"unit": 4, "file": "unit-000004.aa.parquet", "sha256": "", "rows": 1}',
        b'{"unit": 3, "file": "../../secret", "sha256": "", "rows": 1}',
        b'{"unit": 3, "file": "/etc/passwd", "sha256": "", "rows": 1}',
        b'{"unit": 3, "file": "unit-000003.aa.parquet", "sha256": "", "rows": 1, "more": 2}',
    ],
    ids=range(11),
)
def test_a_damaged_or_forged_record_is_an_error_that_names_it(record: bytes, tmp_path: Path) -> None:
    store = UnitStore(Storage(str(tmp_path)), "features/x")
    store.storage.write("features/x/unit-000003.json", record)
    with pytest.raises(StorageError, match=r"unit-000003\.json"):
        store.find(3)


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/../outside"])
def test_no_key_leads_out_of_the_storage(key: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    storage.write("inside", b"1")
    (tmp_path / "outside").write_bytes(b"secret")
    with pytest.raises(StorageError):
        storage.read(key)
    with pytest.raises(StorageError):
        storage.write(key, b"2")
    assert (tmp_path / "outside").read_bytes() == b"secret"
