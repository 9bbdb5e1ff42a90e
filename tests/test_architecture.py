"""The rules that the source keeps: which part may import what, how long things get, and what is never written.

Every test gathers the places that break its rule, so that one failure shows them all.
"""

from __future__ import annotations

import ast

from tests.source_tree import Module, functions, imported, modules

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

#: The imperative shell: all else computes without knowing where.
SHELL = (
    *("evoray/engine/", "evoray/pipeline.py", "evoray/single.py", "evoray/cli.py", "jobs/"),
    *(
        "evoray/comparison.py",
        "evoray/comparison_config.py",
        "evoray/schemas.py",
        "evoray/generating.py",
        "evoray/initial.py",
        "evoray/reporting.py",
        "evoray/cli_options.py",
        "evoray/cli_output.py",
        "evoray/cli_settings.py",
        "evoray/doctor.py",
        "evoray/driver.py",
        "evoray/planning.py",
        "evoray/program.py",
        "evoray/submission",
        "evoray/watching.py",
    ),
)

#: What every stage may build on.
SHARED = {"errors", "records", "budget", "config", "config_file", "storage", "models"}

#: Stage packages, and the other stages each may import.
STAGES: dict[str, set[str]] = {
    "pool": set(),
    "features": set(),
    "alignment": set(),
    "diversity": set(),
    "selection": {"alignment", "diversity"},
    "generation": set(),
    "training": set(),
    "evaluation": set(),
    "report": set(),
    "demo": set(),
}

#: Arrays in, records out: no files, clocks, logging, network or hidden randomness.
PURE = (
    "evoray/alignment/",
    "evoray/diversity/",
    "evoray/selection/",
    "evoray/evaluation/intervals.py",
    "evoray/features/sketches",
)
IMPURE_MODULES = {
    *("os", "pathlib", "io", "shutil", "tempfile", "subprocess"),
    *("logging", "time", "datetime", "random", "secrets", "uuid"),
    *("socket", "http", "urllib", "requests"),
}

#: Modules that run code out of the files they read.
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "eval", "exec", "yaml.load", "yaml.unsafe_load"}

LIBRARY = modules("evoray")
CORE = [module for module in LIBRARY if not module.path.startswith(SHELL) and module.path != "evoray/__init__.py"]
PRODUCT = modules("evoray", "jobs", "benchmarks")
EVERYTHING = modules("evoray", "jobs", "benchmarks", "tests")


def _part(name: str) -> str:
    """The part of the package that an imported name belongs to: `pool` for `evoray.pool.rows`."""
    return name.split(".")[1]


def _evoray_imports(module: Module) -> set[str]:
    return {name for name in imported(module) if name.startswith("evoray.")}


def test_the_walk_sees_the_source() -> None:
    paths = [module.path for module in LIBRARY]
    places = [*(f"evoray/{stage}/" for stage in STAGES), *PURE, *SHELL[:4]]
    assert [place for place in places if not any(path.startswith(place) for path in paths)] == []


def test_every_folder_of_the_library_has_its_place_in_the_rules() -> None:
    folders = {module.path.split("/")[1] for module in LIBRARY if module.path.count("/") > 1}
    assert folders - set(STAGES) - SHARED == {"engine"}


def test_only_the_shell_imports_ray() -> None:
    assert [f"{m.path}: {name}" for m in CORE for name in imported(m) if name.split(".")[0] == "ray"] == []


def test_the_core_does_not_import_the_shell() -> None:
    shell = {
        "engine",
        "pipeline",
        "single",
        "cli",
        "comparison",
        "comparison_config",
        "schemas",
        "generating",
        "initial",
        "reporting",
        "cli_options",
        "cli_output",
        "cli_settings",
        "doctor",
        "driver",
        "planning",
        "program",
        "submission",
        "submission_client",
        "submission_package",
        "watching",
    }
    assert [f"{m.path}: {name}" for m in CORE for name in _evoray_imports(m) if _part(name) in shell] == []


def test_pure_code_touches_no_file_clock_log_or_network() -> None:
    pure = [module for module in LIBRARY if module.path.startswith(PURE)]
    found = [f"{m.path}: {name}" for m in pure for name in imported(m) if name.split(".")[0] in IMPURE_MODULES]
    assert found == []


def test_stages_meet_in_the_shared_parts_alone() -> None:
    found = [
        f"{module.path}: {name}"
        for stage, others in STAGES.items()
        for module in LIBRARY
        if module.path.startswith(f"evoray/{stage}/")
        for name in _evoray_imports(module)
        if _part(name) not in SHARED | others | {stage}
    ]
    assert found == []


def test_the_shared_parts_import_no_stage() -> None:
    shared = [m for m in LIBRARY if m.path.startswith(tuple(f"evoray/{part}" for part in SHARED))]
    assert shared
    assert [f"{m.path}: {name}" for m in shared for name in _evoray_imports(m) if _part(name) not in SHARED] == []


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    assert {m.path: m.lines for m in EVERYTHING if m.lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{m.path}: {f.name}": (f.end_lineno or f.lineno) - f.lineno + 1 for m in EVERYTHING for f in functions(m)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    # A file of tests says it with their names.
    files = [m for m in EVERYTHING if m.text.strip() and "/test_" not in m.path]
    assert [m.path for m in files if not ast.get_docstring(m.tree)] == []


def test_every_package_of_the_library_says_what_it_is() -> None:
    assert [m.path for m in LIBRARY if m.path.endswith("__init__.py") and not ast.get_docstring(m.tree)] == []


def test_public_functions_and_classes_have_docstrings() -> None:
    found = [
        f"{module.path}: {node.name}"
        for module in PRODUCT
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert found == []


def test_the_library_neither_prints_nor_asserts() -> None:
    found = [
        f"{module.path}:{node.lineno}"
        for module in LIBRARY
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
    ]
    assert found == []


def test_no_error_is_swallowed() -> None:
    found = [
        f"{module.path}:{node.lineno}"
        for module in PRODUCT
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert found == []


def test_nothing_that_was_read_is_executed() -> None:
    found = [f"{m.path}: {name}" for m in PRODUCT for name in imported(m) if name.split(".")[0] in UNSAFE_MODULES]
    calls = [(m, node) for m in PRODUCT for node in ast.walk(m.tree) if isinstance(node, ast.Call)]
    found += [f"{m.path}:{call.lineno}" for m, call in calls if ast.unparse(call.func) in UNSAFE_CALLS]
    options = [(m, option) for m, call in calls for option in call.keywords if option.arg == "trust_remote_code"]
    found += [f"{m.path}:{option.value.lineno}" for m, option in options if ast.unparse(option.value) != "False"]
    assert found == []


def test_no_module_is_a_drawer_for_leftovers() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [module.path for module in LIBRARY if drawers & set(module.path.removesuffix(".py").split("/"))] == []
