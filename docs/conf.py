"""Sphinx's settings. `make docs` builds the site into build/docs, without a network, and any warning fails it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "evoray"
author = "the authors of evoray"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "evoray_docs"]
myst_heading_anchors = 3
default_role = "code"  # docstrings put code between single backticks
suppress_warnings = ["myst.strikethrough"]
exclude_patterns = ["_ext"]

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
# Types of other libraries: their own pages are on the network, and this site is built without one.
nitpick_ignore_regex = [
    ("py:.*", r"(np|npt|numpy|torch|pydantic|pyarrow|collections|typing|pathlib)\..*"),
]
# What reports are rendered from; no part of the interface.
nitpick_ignore = [
    ("py:class", "evoray.report.summary.RunSummary"),
    ("py:class", "evoray.report.comparison.ComparisonSummary"),
    ("py:class", "Count"),  # an integer
]

html_theme = "furo"
html_title = f"evoray {release}"
html_static_path = ["_static"]
html_css_files = ["drawings.css"]
html_copy_source = False
html_show_sourcelink = False
