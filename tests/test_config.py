"""The configuration: strict, with errors that name the key and the nearest known one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from evoray.config import RunConfig, check_metric
from evoray.config_file import apply_override, build_config, difference, load_config
from evoray.errors import ConfigError

MINIMAL = {"pool": "p", "target": "t"}


def refusal(data: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_config(data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "key", "near"),
    [
        ({"selektion": {}}, "selektion", "selection"),
        ({"selection": {"lamda": 1}}, "selection.lamda", "lambda"),
        ({"features": {"warmup": {"row": 1}}}, "features.warmup.row", "rows"),
        ({"features": {"cascade": {"keeep": 3}}}, "features.cascade.keeep", "keep"),
    ],
)
def test_an_unknown_key_names_the_nearest(data: dict[str, Any], key: str, near: str) -> None:
    error = refusal({**MINIMAL, **data})
    assert repr(key) in error.received
    assert near in error.expected
    assert error.remedy == f"did you mean {near!r}?"


def test_a_value_of_the_wrong_type_is_shown_with_its_key() -> None:
    error = refusal({**MINIMAL, "selection": {"k": "many"}})
    assert error.received == "selection.k = 'many'"


def test_a_value_out_of_range_is_shown_with_its_bound() -> None:
    error = refusal({**MINIMAL, "rounds": 0})
    assert error.received == "rounds = 0"
    assert "1" in error.expected


def test_a_missing_key_is_named() -> None:
    assert "'target'" in refusal({"pool": "p"}).received


def test_an_unknown_selector_lists_the_known_ones() -> None:
    error = refusal({**MINIMAL, "selection": {"selector": "evoslect"}})
    assert "evoselect, k_center" in error.expected
    assert "'evoselect'" in error.remedy


@pytest.mark.parametrize(
    ("features", "named"),
    [
        ({"sketch": "kronecker"}, "features.sketch: kronecker"),
        ({"parameters": "base", "preconditioning": "none"}, "features.parameters: base"),
        ({"preconditioning": "less", "centred": True}, "features.centred"),
        ({"centred": True, "cascade": {}}, "features.cascade"),
        ({"representation": "embed", "adapter": "a"}, "1 adapters"),
        ({"representation": "rds", "adapter": ["a", "b"]}, "2 adapters"),
        ({"adapter": ["a", "b"], "adapter_weights": [1.0]}, "features.adapter_weights"),
    ],
)
def test_features_that_do_not_go_together_are_refused(features: dict[str, Any], named: str) -> None:
    assert named in refusal({**MINIMAL, "features": features}).received


def test_distances_that_less_does_not_give_are_refused() -> None:
    config = build_config({**MINIMAL, "features": {"preconditioning": "less"}})
    with pytest.raises(ConfigError, match="energy: relative_vendi"):
        check_metric(config.features, config.selection)
    check_metric(config.features, config.selection.model_copy(update={"energy": "none"}))


def test_an_exact_selection_has_no_diversity_term() -> None:
    for key in ("lambda", "rho"):
        error = refusal({**MINIMAL, "selection": {"solver": "exact", key: 0.3}})
        assert f"{key}: 0.3" in error.received and "solver: exact" in error.received
    for lam in ("auto", 0):
        build_config({**MINIMAL, "selection": {"solver": "exact", "lambda": lam}})
    less = build_config({**MINIMAL, "selection": {"solver": "exact"}, "features": {"preconditioning": "less"}})
    check_metric(less.features, less.selection)


@pytest.mark.parametrize(
    ("selection", "named"),
    [
        ({"shares": {"a": [0.6, 0.5]}}, "a: [0.6, 0.5]"),
        ({"shares": {"a": [0.0, 1.5]}}, "a: [0.0, 1.5]"),
        ({"shares": {"a": [0.6, 1], "b": [0.6, 1]}}, "minima of more than 1"),
        ({"shares": {"a": [0.1, 0.2]}, "selector": "random"}, "selector random"),
        ({"max_share": 0.5, "solver": "exact"}, "solver exact"),
        ({"max_share": 1.5}, "selection.max_share = 1.5"),
        ({"shares": {"a": [0.1]}}, "selection.shares.a.1"),
    ],
)
def test_shares_that_make_no_sense_are_refused(selection: dict[str, Any], named: str) -> None:
    assert named in refusal({**MINIMAL, "selection": selection}).received


def test_shares_survive_the_dump_of_a_config() -> None:
    config = build_config({**MINIMAL, "selection": {"shares": {"a": [0.1, 0.5]}, "max_share": 0.3}})
    assert config.selection.shares == {"a": (0.1, 0.5)}
    assert build_config(config.model_dump(by_alias=True, mode="json")) == config


def test_overrides_reach_nested_keys_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    config = load_config(path, ["selection.k=7", "selection.lambda=0.25", "training.from=base"], seed=3, out="o")
    assert (config.selection.k, config.selection.lam, config.training.start_from) == (7, 0.25, "base")
    assert (config.seed, config.out) == (3, "o")


@pytest.mark.parametrize("text", ["selection.k", "=3", "pool.k=1", "selection.k=[1"])
def test_an_override_that_cannot_be_applied_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_override(dict(MINIMAL), text)
    assert text in caught.value.received


def test_relative_paths_are_taken_from_the_folder_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "my-model").mkdir(parents=True)
    path = tmp_path / "configs" / "config.yaml"
    path.write_text(yaml.safe_dump({"pool": ["a.jsonl", "s3://bucket/b"], "target": "/abs/t", "model": "my-model"}))
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/config.yaml")
    assert config.pool == (str(tmp_path / "configs" / "a.jsonl"), "s3://bucket/b")
    assert config.target == "/abs/t"
    assert config.model == str(tmp_path / "configs" / "my-model")


def test_a_model_without_a_folder_of_its_name_stays_a_hub_id(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "model": "org/name"}))
    assert load_config(path).model == "org/name"


@pytest.mark.parametrize(("text", "part"), [("a: [", "config.yaml"), ("- 1", "list"), ("", "NoneType")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert part in caught.value.received


@pytest.mark.parametrize(
    "selection",
    [
        {"lambda": -1},
        {"lambda": float("nan")},
        {"r": 0},
        {"r": float("inf")},
        {"eps": float("inf")},
        {"rho": float("nan")},
    ],
)
def test_weights_that_are_none_are_refused_before_anything_is_computed(selection: dict[str, Any]) -> None:
    assert next(iter(selection)) in refusal({**MINIMAL, "selection": selection}).received


def test_a_negative_seed_is_refused() -> None:
    assert refusal({**MINIMAL, "seed": -1}).received == "seed = -1"


@pytest.mark.parametrize("line", ["out: 2026-02-30", "seed: !!int x"])
def test_values_that_yaml_cannot_make_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"pool: p\ntarget: t\n{line}\n")
    with pytest.raises(ConfigError, match="readable YAML"):
        load_config(path)
    with pytest.raises(ConfigError, match="--set"):
        apply_override({}, line.replace(": ", "="))


def test_one_config_has_one_set_of_paths_from_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conf"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.yaml").write_text("pool: p.jsonl\ntarget: ../t\n")
    found = []
    for here, name in ((tmp_path, "conf/config.yaml"), (folder / "sub", "../config.yaml")):
        monkeypatch.chdir(here)
        found.append(load_config(name))
    assert found[0] == found[1] and found[0].target == str(tmp_path / "t")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_a_config_is_frozen_and_survives_its_own_dump() -> None:
    config = build_config({**MINIMAL, "selection": {"lambda": 0.5}, "training": {"from": "base"}})
    assert build_config(config.model_dump(by_alias=True, mode="json")) == config
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]


def test_the_difference_of_two_configs_shows_each_changed_key() -> None:
    old = RunConfig(**MINIMAL).model_dump()
    new = build_config({**MINIMAL, "selection": {"k": 5}, "seed": 1}).model_dump()
    assert difference(old, new) == ["seed: 0 -> 1", "selection.k: 96 -> 5"]
    assert difference(old, old) == []
