from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from evoray.report.inline_svg import inline
from evoray.report.map_plot import feature_map
from evoray.report.plot_canvas import panels, style, svg
from tests.report.pages import HOSTILE, full_run


def drawn(name: str = "a line") -> bytes:
    with style():
        figure, (axes,) = panels(1, 3, 2)
        axes.plot([0, 1], [0, 1], marker="o")
        axes.set_title(name)
        return svg(figure)


def test_a_plot_loses_what_a_page_has_already_and_keeps_what_is_drawn() -> None:
    before = drawn()
    inlined = inline(before, "one", "Title", "Text")
    root, found = ET.fromstring(before), ET.fromstring(inlined)
    for tag in ("path", "use", "text", "clipPath"):
        here = [one for one in root.iter() if one.tag.endswith(f"}}{tag}")]
        assert len([one for one in found.iter() if one.tag == tag]) == len(here)
    assert len(inlined) < len(before) / 1.5
    assert not re.search(r"<metadata|<style|style=|xmlns|font-family|DOCTYPE|<\?xml", inlined)


def test_ids_of_plots_are_told_apart_and_referred_to() -> None:
    first, second = (inline(drawn(), key, "Title", "Text") for key in ("one", "two"))
    ids = [set(re.findall(r'id="([^"]+)"', plot)) for plot in (first, second)]
    assert not ids[0] & ids[1]
    for plot, names in zip((first, second), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', plot))
        assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', plot)} <= names


def test_words_of_a_plot_are_escaped() -> None:
    plot = inline(drawn("<b>&amp;"), "one", "<i>", '"</desc>')
    found = ET.fromstring(plot)
    assert [one.text for one in found.iter() if one.tag == "text" and "b" in (one.text or "")] == ["<b>&amp;"]
    assert (found[0].text, found[1].text) == ("<i>", '"</desc>')
    assert "<script" not in inline(drawn("".join(one for one in HOSTILE if one.isprintable())), "one", HOSTILE, HOSTILE)


def test_every_dot_of_the_map_is_drawn_and_few_bytes_long() -> None:
    found = full_run().feature_map
    assert found is not None
    with style():
        plot = inline(svg(feature_map(found)), "map", "Map", "Text")
    (dots,) = [path for path in re.findall(r' d="([^"]+)"', plot) if path.count("M") > 1000]
    assert dots.count("M") == dots.count("L") == 2000
    assert len(plot) < 100_000
