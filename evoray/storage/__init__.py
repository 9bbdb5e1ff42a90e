"""Where bytes live: one seam over a local folder or a bucket, and the unit store built on it."""

from evoray.storage.backend import Storage
from evoray.storage.scratch import process_folder, scratch_folder
from evoray.storage.units import UnitCommit, UnitStore

__all__ = ["Storage", "UnitCommit", "UnitStore", "process_folder", "scratch_folder"]
