"""Where converted models and compiled extensions are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$EVORAY_CACHE, or ~/.cache/evoray."""
    return Path(os.environ.get("EVORAY_CACHE", Path.home() / ".cache" / "evoray")).expanduser().absolute()
