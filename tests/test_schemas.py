"""Schemas for editors: they take every config that is shipped, explain every key, and refuse what a run refuses."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from evoray.errors import ConfigError
from evoray.schemas import config_schema
from tests.commands import Command
from tests.source_tree import ROOT

EXAMPLES = sorted((ROOT / "jobs" / "examples").glob("*.yaml"))
RUN = {"pool": "p.jsonl", "target": "t"}


def problems(config: Any, kind: str = "run") -> list[str]:
    return [error.message for error in Draft202012Validator(config_schema(kind)).iter_errors(config)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path: Any) -> None:
    config = yaml.safe_load(path.read_text())
    assert problems(config, "comparison" if "selectors" in config else "run") == []


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_every_key_is_explained_or_a_section(kind: str) -> None:
    schema = config_schema(kind)
    Draft202012Validator.check_schema(schema)
    bare = [
        f"{name}.{key}"
        for name, section in {"": schema, **schema["$defs"]}.items()
        for key, one in section["properties"].items()
        if "description" not in one and "$ref" not in str(one)
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"selection": {"kk": 3}}, "'kk' was unexpected"),
        ({"rounds": 0}, "less than the minimum of 1"),
        ({"training": {"zero_stage": 4}}, "not one of [1, 2, 3]"),
        ({"training": {"from": "nowhere"}}, "not one of"),
        ({"machines": {"a": {"workers": 1}}}, "'hour' is a required property"),
    ],
)
def test_what_a_run_refuses_is_underlined(change: dict[str, Any], said: str) -> None:
    assert problems(RUN) == []
    assert any(said in message for message in problems({**RUN, **change}))


def test_the_command(evoray: Command) -> None:
    assert evoray.shown("schema") == config_schema("run")
    assert evoray.shown("schema", "comparison") == config_schema("comparison")
    with pytest.raises(ConfigError, match="one of run, comparison"):
        config_schema("runs")
    assert "one of run, comparison" in evoray.refused("schema", "runs")
