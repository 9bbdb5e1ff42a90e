"""The documentation: what pages name exists, links lead somewhere, nothing is left out, and the site builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_pages import before_commands
from config_pages import config_keys

import evoray
from evoray.comparison_config import ComparisonConfig, EntryConfig, build_comparison
from evoray.config import SELECTORS, GenerationConfig, RunConfig
from evoray.config.section import section_in
from evoray.config_comments import field_comments
from evoray.config_file import build_config
from evoray.selection.selectors import build_selector, selector_class
from tests import pages
from tests.source_tree import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
#: Pages of the project that the site includes or points at.
OTHERS = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "cluster_configs/README.md")
]
FIGURES = sorted((DOCS / "figures").glob("*.svg"))
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=named)
own_page = pytest.mark.parametrize("page", PAGES, ids=named)


@every_page
def test_every_command_of_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = {line: pages.unknown_to_evoray(line) for line in pages.lines_of(text, "evoray")}
    found |= {line: pages.unknown_to_make(line) for line in pages.lines_of(text, "make")}
    assert {line: unknown for line, unknown in found.items() if unknown} == {}


@every_page
def test_every_command_of_ray_in_a_page_exists(page: Path) -> None:
    lines = pages.shell_lines(page.read_text(encoding="utf-8"), "bash", "")
    assert {line: pages.unknown_to_ray(line) for line in lines if line.startswith("ray ")} == {
        line: [] for line in lines if line.startswith("ray ")
    }


@pytest.mark.parametrize(
    "line",
    [
        "evoray rum config.yaml",
        "evoray run config.yaml --outt runs",
        "evoray run config.yaml --set selection.kk=3",
        "evoray train --pool p",
        "evoray run config.yaml --quiet",
        "evoray --loud run config.yaml",
    ],
)
def test_a_command_that_evoray_does_not_have_is_noticed(line: str) -> None:
    assert pages.unknown_to_evoray(line)


@every_page
def test_every_key_of_the_config_that_a_page_names_exists(page: Path) -> None:
    assert pages.unknown_keys(page.read_text(encoding="utf-8")) == []


def test_a_key_that_no_config_has_is_noticed() -> None:
    assert pages.unknown_keys("`selection.lamda`, `features.warmup.row`, `training.json`, `selection.lambda: 1`") == [
        "selection.lamda",
        "features.warmup.row",
    ]


@every_page
def test_every_config_in_a_page_would_be_taken(page: Path) -> None:
    for found in pages.mappings_of(page.read_text(encoding="utf-8")):
        if "targets" in found:
            build_comparison(found)
            continue
        config = build_config({"pool": "pool", "target": "target", **found})
        if config.selection.selector != "evoselect":
            build_selector(config.selection.selector, config.selection.options)


@every_page
def test_options_of_selectors_in_commands_exist(page: Path) -> None:
    for line in pages.lines_of(page.read_text(encoding="utf-8"), "evoray"):
        chosen = re.search(r"--selector (\w+)(?!\S)", line)
        for option in re.findall(r"--option (\w+)=", line) if chosen else ():
            assert option in selector_class(chosen[1]).model_fields, line  # type: ignore[index]


@every_page
def test_every_file_of_the_project_that_a_page_names_exists(page: Path) -> None:
    assert pages.missing_files(page.read_text(encoding="utf-8")) == []


@every_page
def test_code_of_python_in_a_page_is_code(page: Path) -> None:
    pages.check_python(page.read_text(encoding="utf-8"))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    assert pages.broken_links(page) == []


@own_page
def test_no_page_names_a_machine_or_person(page: Path) -> None:
    assert pages.MACHINE.findall(page.read_text(encoding="utf-8")) == []


def test_every_page_can_be_found_from_the_first() -> None:
    listed = {
        (index.parent / name).with_suffix(".md")
        for index in PAGES
        for block in pages.blocks(index.read_text(encoding="utf-8"), "{toctree}")
        for name in block.split()
        if not name.startswith(":")
    }
    assert set(PAGES) - {DOCS / "index.md"} - listed == set()


def test_every_result_has_a_page_and_a_line_in_the_list() -> None:
    shown = {page: page.read_text(encoding="utf-8") for page in (DOCS / "benchmarks").glob("*.md")}
    list_ = shown[DOCS / "benchmarks" / "index.md"]
    for result in RESULTS:
        (page,) = [page for page, text in shown.items() if f"results/{result.name}" in text]
        assert f"]({page.name})" in list_


def test_every_selector_has_a_section_with_its_defaults() -> None:
    text = (DOCS / "guides" / "selectors.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### `(\w+)`$", text, re.MULTILINE)) == sorted(SELECTORS)
    assert sorted(re.findall(r"^<!-- evoray: selector (\w+) -->$", text, re.MULTILINE)) == sorted(SELECTORS)


def test_every_source_of_generated_candidates_is_described() -> None:
    text = (DOCS / "guides" / "generators.md").read_text(encoding="utf-8")
    sources = GenerationConfig.model_fields["source"].annotation.__args__  # type: ignore[union-attr]
    assert [source for source in sources if f"**`{source}`**" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: evoray\.(\w+)(?:\(.*\))?$", text, re.MULTILINE)) == evoray.__all__


@pytest.mark.parametrize("root", [RunConfig, ComparisonConfig, EntryConfig], ids=lambda root: root.__name__)
def test_every_key_says_what_it_is(root: Any) -> None:
    sections = {root, *filter(None, config_keys(root).values())}
    silent = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if section_in(field.annotation) is None and not field_comments(section).get(name)
    ]
    assert silent == []


def test_the_references_have_every_key_and_command() -> None:
    run = pages.whole(DOCS / "reference" / "config.md")
    assert [key for key in config_keys(RunConfig) if f"| `{key.rpartition('.')[2]}` |" not in run] == []
    compared = pages.whole(DOCS / "reference" / "comparison.md")
    own = [key for key in ComparisonConfig.model_fields if f"| `{key}` |" not in compared]
    assert own == []
    listed = pages.whole(DOCS / "reference" / "commands.md")
    assert [one.name for one in before_commands() if f"| `{one.opts[0]}` | `{one.envvar}=1` |" not in listed] == []
    assert [name for name in pages.commands() if f"## `evoray {name}`" not in listed] == []


def test_figures_are_used_once_and_say_what_they_show() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {figure.name: text.count(f"figures/{figure.name}\n") for figure in FIGURES} == {
        figure.name: 1 for figure in FIGURES
    }
    for figure in FIGURES:
        parts = [part.tag.rpartition("}")[2] for part in ElementTree.parse(figure).getroot()]
        assert parts[:3] == ["title", "desc", "style"], figure


def test_figures_take_their_colours_from_the_page() -> None:
    """Light and dark: one style for all, by the page's variables, and no text with a colour of its own."""
    styles = set()
    for figure in FIGURES:
        root = ElementTree.parse(figure).getroot()
        styles |= {part.text for part in root if part.tag.endswith("style")}
        for part in root.iter():
            assert {"fill", "stroke", "color"} & set(part.attrib) == set(), figure
            assert not part.tag.endswith("text") or part.attrib["class"] in ("ev-t", "ev-h", "ev-s", "ev-m"), figure
    assert len(styles) == 1


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    absent = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"DOCS NOT BUILT: no {', '.join(absent)}; pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-E", "-n", "-W", "--keep-going", "-q", "docs", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "config.html").is_file()
