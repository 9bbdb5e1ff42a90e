"""A plot as part of a page: smaller, in the page's colours, and named for those who do not see it.

Styles become attributes, so that the page needs no inline style; colours become variables of the page's style sheet, so
that they change with its theme; ids are kept where something refers to them, and are told apart between plots.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from evoray.report import plot_canvas as canvas

#: The variable of the style sheet that stands for a colour of the plots.
VARIABLES = {
    canvas.SURFACE: "surface",
    canvas.LINE: "ink",
    canvas.TICK: "muted",
    canvas.AXIS: "axis",
    canvas.GRID: "grid",
    canvas.REST: "rest",
    canvas.UNCLEAR: "unclear",
    canvas.ON_MARK: "on-mark",
    **{colour: f"mark-{number}" for number, colour in enumerate(canvas.MARKS)},
    **{colour: f"area-{number}" for number, colour in enumerate(canvas.AREAS)},
}

_SCALE = 1.5  # pixels of a point where there is room: letters as large as those of the page
_HREF = "{http://www.w3.org/1999/xlink}href"
_LEFT_OUT = {"metadata", "style"}
_MEASURES = {"d", "x", "y", "width", "height", "transform", "points", "cx", "cy", "r"}
_FONT = re.compile(r"(?:(bold|\d{3}) )?([\d.]+px)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_URL = re.compile(r"url\(#([^)]+)\)")
_UNTURNED = re.compile(r"rotate\(-?0 [^)]*\)")


def inline(drawn: bytes, key: str, title: str, description: str) -> str:
    """The plot as an element of HTML. key: letters that no other plot of the page has."""
    root = ET.fromstring(drawn)
    kept = set(_references(root))
    parts = "".join(_element(child, key, kept) for child in root)
    box = root.get("viewBox", "0 0 0 0")
    width, height = (round(float(side) * _SCALE) for side in box.split()[2:])
    names = f'<title id="{key}-t">{html.escape(title)}</title><desc id="{key}-d">{html.escape(description)}</desc>'
    named = f'role="img" aria-labelledby="{key}-t" aria-describedby="{key}-d"'
    return (
        f'<svg viewBox="{box}" width="{width}" height="{height}" {named} '
        f'stroke-linejoin="round" stroke-linecap="butt">{names}{parts}</svg>'
    )


def _references(root: ET.Element) -> Iterator[str]:
    """Ids that something in the plot refers to."""
    for one in root.iter():
        for name, value in one.attrib.items():
            yield from [value[1:]] if name == _HREF else _URL.findall(value)


def _element(one: ET.Element, key: str, kept: set[str]) -> str:
    tag = one.tag.rpartition("}")[2]
    if tag in _LEFT_OUT:
        return ""
    inside = html.escape((one.text or "").strip(), quote=False) if tag in ("text", "tspan") else ""
    inside += "".join(_element(child, key, kept) for child in one)
    attributes = "".join(
        f' {name}="{html.escape(value)}"' for name, value in _attributes(one, key, kept).items() if value
    )
    if not inside and tag in ("g", "defs"):
        return ""
    if tag == "g" and not attributes:
        return inside
    return f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"


def _attributes(one: ET.Element, key: str, kept: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in one.attrib.items():
        if name == "style":
            found |= _presentation(value)
        elif name == "id":
            found["id"] = f"{key}-{value}" if value in kept else ""
        elif name == _HREF:
            found["href"] = f"#{key}-{value[1:]}"
        elif name in _MEASURES:
            found[name] = _shorter(value)
        elif not name.startswith("{"):
            found[name] = value.replace("url(#", f"url(#{key}-")
    return found


def _presentation(style: str) -> dict[str, str]:
    """Properties of a style as attributes; the page says which fonts there are."""
    found: dict[str, str] = {}
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            found |= dict(zip(("font-weight", "font-size"), _FONT.findall(value)[0], strict=True))
        elif name and name != "font-family":
            variable = VARIABLES.get(value.lower())
            found[name] = value if variable is None else f"var(--{variable})"
    return found


def _shorter(value: str) -> str:
    """Places to a tenth of a point."""
    text = _NUMBER.sub(lambda match: f"{float(match.group()):.1f}".removesuffix(".0"), _UNTURNED.sub("", value))
    return " ".join(text.split())
