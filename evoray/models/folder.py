"""A folder of files (an adapter, a whole model) in a storage, fetched to this machine where it is not there already."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from evoray.errors import ModelError
from evoray.storage import Storage, process_folder

#: Beside an adapter: its optimiser's moments (see `moments`). Named here, where no torch is needed.
MOMENTS_FILE = "moments.safetensors"
#: Beside what a training left: its facts, written last.
OUTCOME_FILE = "training.json"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The objects below `prefix`. Picklable; `fetch` gives a local path."""

    storage: Storage
    prefix: str

    def __str__(self) -> str:
        return self.storage.location(self.prefix)

    @classmethod
    def at(cls, path: str) -> Folder:
        """An adapter folder given as a path or URI of its own. Raises ModelError for a path that is no folder."""
        if "://" not in path and not Path(path).expanduser().is_dir():
            raise ModelError(
                f"adapter {path}: there is no such directory",
                "a PEFT adapter directory with adapter_config.json and adapter_model.safetensors",
                "check the path",
            )
        parent, _, name = str(Storage(path).uri).rpartition("/")
        return cls(storage=Storage(parent), prefix=name)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self.storage.exists(f"{self.prefix}/{name}")

    def read(self, name: str) -> bytes:
        """The bytes of one file. Raises StorageError where there is none."""
        return self.storage.read(f"{self.prefix}/{name}")

    def fetch(self) -> str:
        """A local directory with the files: the folder itself where the storage is a local one."""
        if self.storage.is_local:
            return str(Path(self.storage.location(self.prefix)))
        target = process_folder()
        self.copy_to(target)
        return str(target)

    def copy_to(self, target: Path) -> None:
        """Write every file to a local directory; those of other names that are there stay."""
        for key in self.storage.keys(self.prefix):
            (target / key.rpartition("/")[2]).write_bytes(self.storage.read(key))

    def fingerprint(self) -> str:
        """SHA-256 over config, weights and optimiser moments: of an adapter, or of a model that was trained whole."""
        digest = hashlib.sha256()
        for key in sorted(self.storage.keys(self.prefix)):
            name = key.rpartition("/")[2]
            if name in ("adapter_config.json", "config.json") or name.endswith(".safetensors"):
                digest.update(name.encode() + self.storage.read(key))
        return digest.hexdigest()

    def check_base(self, model: str, identity: str) -> None:
        """Raise ModelError where evoray trained this on another model than the one of this fingerprint.

        Shapes alone do not tell: an adapter fits every model of equal widths and enough layers.
        """
        trained_on = json.loads(self.read(OUTCOME_FILE)).get("model") if self.has(OUTCOME_FILE) else None
        if trained_on is not None and trained_on != identity:
            raise ModelError(
                f"{self}, trained on another model than {model} (fingerprint {trained_on[:12]}, not {identity[:12]})",
                "what was trained on this model",
                "give the model that it was trained on",
            )

    def replace_by(self, source: Path, record: str) -> None:
        """Delete what is there, a record that says what it is before all else, and upload a local directory."""
        if self.has(record):
            self.storage.delete(f"{self.prefix}/{record}")
        for key in list(self.storage.keys(self.prefix)):
            self.storage.delete(key)
        self.upload(source)

    def upload(self, source: Path) -> None:
        """Write every file of a local directory below the prefix."""
        for path in sorted(source.iterdir()):
            if path.is_file():
                self.storage.write(f"{self.prefix}/{path.name}", path.read_bytes())
