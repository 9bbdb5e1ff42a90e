"""Where converted models and compiled extensions are kept."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """$EVORAY_CACHE, or ~/.cache/evoray."""
    return Path(os.environ.get("EVORAY_CACHE", Path.home() / ".cache" / "evoray")).expanduser().absolute()


def operators_dir() -> Path:
    """Where torch keeps what it compiled: of each environment its own, since it compiles anew for another's headers."""
    return cache_dir() / "torch_extensions" / hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
