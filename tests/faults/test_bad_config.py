"""Configs of junk: each is taken, or refused by one error that says what to do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from evoray.comparison_config import ComparisonConfig, build_comparison, load_comparison
from evoray.config import RunConfig
from evoray.config_file import build_config, load_config
from evoray.engine.bench import entries_of
from evoray.errors import ConfigError

_JUNK = (
    *(None, True, 0, -1, 1, 3, 0.5, 1e308, float("nan"), float("inf"), 10**30, "", " ", "auto", "all", "loss", "yes"),
    *("\x00", "\ud800", "1e3", "10tok", "-5tok", "../..", "s3://", "s3:///x", "http://", "a:b", ":b", "a:", "{{ x }}"),
    *("{% if", "x" * 10_000, [], {}, [None], ["a", 1], {"a": {"b": []}}, {"": 1}, [[[]]], "evoselect", "k_center"),
    *("gradient", "rds", "none"),
)


def junk_at(rng: random.Random, model: type[BaseModel], data: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A mapping with junk at some keys of a section, of its sections, and at keys that it does not have."""
    found = dict(data)
    for name, field in model.model_fields.items():
        section = field.annotation if isinstance(field.annotation, type) else None
        if section is not None and issubclass(section, BaseModel) and rng.random() < 0.5:
            found[name] = junk_at(rng, section, {}, depth + 1)
        elif rng.random() < (0.015 if depth == 0 else 0.02):
            found[field.alias or name] = rng.choice(_JUNK)
    if rng.random() < 0.02:
        found[rng.choice(["", "sed", "poool", "a.b", "\x00"])] = rng.choice(_JUNK)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_any_config_is_taken_or_refused(seed: int, tmp_path: Path) -> None:
    rng, taken = random.Random(seed), 0
    for _ in range(200):
        data = junk_at(rng, RunConfig, {"pool": "p.jsonl", "target": "t.jsonl"})
        try:
            taken += isinstance(build_config(data), RunConfig)
        except ConfigError as error:
            assert error.received and error.expected and error.remedy
    assert 20 < taken < 180


@pytest.mark.parametrize("seed", range(4))
def test_any_comparison_is_taken_or_refused(seed: int) -> None:
    rng, taken = random.Random(seed), 0
    for _ in range(200):
        own = {rng.choice(["rounds", "features", "training"]): rng.choice(_JUNK)}
        entries: list[Any] = ["random", {"selector": "less", **own}]
        data = {"pool": "p", "targets": {"t": "t"}, "selectors": entries if rng.random() < 0.5 else entries[:1]}
        try:
            config = build_comparison(junk_at(rng, ComparisonConfig, data))
            entries_of(config)
            taken += 1
        except ConfigError as error:
            assert error.received and error.expected and error.remedy
    assert 20 < taken < 180


@pytest.mark.parametrize("load", [load_config, load_comparison])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "NoneType"),
        ("null", "NoneType"),
        ("- a", "list"),
        ("a: b: c", "mapping values are not allowed"),
        ("{", "flow node"),
        ("? [a]\n: b", "unhashable"),
        ("1: 2", "no config key"),
        ("\x00", "special characters"),
        ("&a [*a]", "list"),
        ("a: &a [x]\nb: *a\n<<: *a", "merging"),
        ("pool: p\npool: q", "pool twice"),
        ("features: {dim: 1, dim: 2}", "dim twice"),
        ("\ud800", "utf-8"),
        ("? !!binary aGk=\n: 1", "no config key"),
        ("2026-01-01: x", "no config key"),
        ("pool: 2026-01-01", "pool"),
        ("a" * 10**6, "str"),
        ("[" * 3000, "too deep"),
    ],
    ids=range(18),
)
def test_any_file_is_refused_and_said_to_be_what_it_is(text: str, said: str, load: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["1", "2026-01-01", "? !!binary aGk=\n", "null", "true", "1.5"])
def test_a_key_that_is_no_text_is_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"pool: p\ntarget: t\n{key}: 2")
    with pytest.raises(ConfigError, match="which is no text"):
        load_config(path)


def test_a_tag_of_python_is_not_obeyed(tmp_path: Path) -> None:
    path, witness = tmp_path / "config.yaml", tmp_path / "witness"
    path.write_text(f"pool: p\ntarget: !!python/object/apply:os.system ['touch {witness}']")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(path)
    assert not witness.exists()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "config.yaml"
    for _ in range(200):
        path.write_bytes(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 80))))
        with pytest.raises(ConfigError):
            load_config(path)


def test_a_billion_laughs_are_not_laughed(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join([*lines, "pool: *a8"]))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value)) < 5000
