"""What Sphinx does for these pages beyond Markdown: references out of the source, and drawings.

A line `<!-- evoray: NAME ARGUMENT -->` of a page is replaced, before the page is parsed, by what NAME makes of the code
that is documented. `drawing` puts an SVG file into the page itself, where it has the page's colours, light or dark.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from generated_pages import PLACE, SHARED, generated
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import evoray
from evoray.comparison_config import EntryConfig
from evoray.config import RunConfig
from evoray.config_comments import field_comments

#: Where the classes of a config's sections are described.
_SECTIONS = {
    **{type(field.default).__name__: name for name, field in RunConfig.model_fields.items() if name in SHARED},
    "GenerationConfig": "generation",
}


def _fill(_app: Sphinx, _name: str, source: list[str]) -> None:
    source[0] = generated(source[0])


def _always(_app: Sphinx, env: BuildEnvironment, *_changes: set[str]) -> list[str]:
    """Pages that depend on the code, which Sphinx does not watch."""
    return [name for name in env.found_docs if PLACE.search(Path(env.doc2path(name)).read_text(encoding="utf-8"))]


class Drawing(SphinxDirective):
    """`drawing FILE`, the caption below it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """A figure. Its text for who does not see it is the file's own title and description."""
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        text = Path(path).read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        figure = nodes.figure("", nodes.raw("", text, format="html"), classes=["drawing"])
        caption = nodes.caption()
        caption += self.parse_inline(" ".join(self.content))[0]
        figure += caption
        return [figure]


def _with_fields(_app: Sphinx, what: str, _name: str, kind: Any, _options: Any, lines: list[str]) -> None:
    """The fields of a record, with what their lines of source say."""
    if what != "class" or not dataclasses.is_dataclass(kind):
        return
    comments = field_comments(kind)
    lines.append("")
    for one in dataclasses.fields(kind):
        lines.append(f"* ``{one.name}``" + (f": {comments[one.name]}" if one.name in comments else ""))
    lines.append("")


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Names of the API are documented by their public name, and sections of the config on a page of their own."""
    if node.get("refdomain") != "py":
        return None
    name = str(node["reftarget"]).rpartition(".")[2]
    if name in _SECTIONS:
        return make_refnode(app.builder, node["refdoc"], "reference/config", _SECTIONS[name], content)
    if name == EntryConfig.__name__:
        return make_refnode(app.builder, node["refdoc"], "reference/comparison", "an-entry-of-selectors", content)
    domain = env.domains["py"]
    if name in evoray.__all__ and node["reftarget"] != f"evoray.{name}":
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"evoray.{name}", node, content  # type: ignore[arg-type]
        )  # fmt: skip
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _always)
    app.connect("autodoc-process-docstring", _with_fields)
    app.connect("missing-reference", _resolve)
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
