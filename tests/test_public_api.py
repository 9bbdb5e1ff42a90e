"""Names and parameters that users rely on: a change here is a change of the interface, and belongs in CHANGELOG.md."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from typing import get_args

import pytest
import typer.main

import evoray
from evoray.cli import app

NAMES = [
    "Choice",
    "Compared",
    "Comparison",
    "ComparisonConfig",
    "EvorayError",
    "Exported",
    "ExportedModel",
    "Featurised",
    "Forecast",
    "Generated",
    "Needs",
    "Request",
    "Row",
    "RunConfig",
    "RunResult",
    "Score",
    "Scored",
    "Selection",
    "Selector",
    "Trained",
    "UserError",
    "compare",
    "evaluate",
    "evaluate_paired",
    "export",
    "export_model",
    "featurize",
    "generate",
    "load_comparison",
    "load_config",
    "plan",
    "read_report",
    "run",
    "score",
    "select",
    "status",
    "train",
]

#: Parameters of the public functions; those behind the bar are given by name.
PARAMETERS = {
    "compare": "config | display",
    "evaluate": "model target out | adapter split evaluation max_tokens seed cluster display",
    "evaluate_paired": "target model out | adapter against_model against_adapter split evaluation max_tokens seed "
    "cluster display",
    "export": "source out | form rounds",
    "export_model": "source out | model",
    "generate": "config | display",
    "featurize": "pool model out | adapter features lora reading seed cluster display",
    "load_comparison": "path overrides values",
    "load_config": "path overrides values",
    "plan": "config | rows display",
    "read_report": "out | form",
    "run": "config | display anew command",
    "score": "potentials pool out | features_path reading cluster display",
    "select": "pool target model k out | selector options adapter features_path target_features_path features lora "
    "selection reading seed cluster display",
    "status": "out",
    "train": "data model out | adapter target training lora reading max_tokens steps seed cluster display",
}

FIELDS = {
    "Choice": "picks facts others",
    "Compared": "out headline summary",
    "Comparison": "model against loss loss_low loss_high accuracy accuracy_low accuracy_high rows verdicts",
    "Exported": "path rows left_out",
    "ExportedModel": "path model trained",
    "Featurised": "path rows quarantined",
    "Forecast": "source config workers pool_rows rehearsed_rows rehearsal_seconds stages prices",
    "Generated": "path rows facts",
    "Needs": "features target representation only unit_rows columns feedback",
    "Request": "k rows seed goal used looped feedback progress memory start_g_M journal",
    "Row": "id messages source choices answer quality weight subtask",
    "RunResult": "out best summary",
    "Score": "loss loss_low loss_high accuracy accuracy_low accuracy_high rows facts",
    "Scored": "path rows quarantined",
    "Selection": "path ids facts rows",
    "Trained": "path facts",
}

CONFIG_KEYS = {
    "": "pool target model out store rounds seed labels patience generation reading lora features selection training "
    "feedback evaluation cluster machines",
    "lora": "rank alpha target_modules",
    "features": "representation model adapter adapter_weights parameters dim sketch centred max_tokens "
    "preconditioning precision batch_tokens cascade warmup seed refresh",
    "generation": "source model samples per_request examples form prompt system temperature top_p max_new_tokens "
    "unit_requests url key_env concurrency requests_per_minute timeout attempts max_requests max_tokens batch_tokens "
    "precision near",
    "reading": "unit_rows max_quarantined max_chars",
    "selection": "selector k options energy lambda r eps rho solver eta steps tolerance trials shares max_share shards "
    "cache_mb",
    "training": "weights epochs batch_size micro_batch_tokens packing learning_rate warmup_share schedule weight_decay "
    "max_grad_norm zero_stage offload workers precision checkpoint_steps early_stop from on_harm",
    "evaluation": "precision batch_tokens list_options scorer extract max_new_tokens control",
    "feedback": "scorer max_new_tokens batch_tokens precision",
    "cluster": "address workers gpus_per_worker threads unit_attempts stall_minutes object_store_mb",
}

COMPARISON_KEYS = (
    "pool targets selectors budgets seeds reference deciles model out launch parallel reading lora features selection "
    "training feedback evaluation cluster"
)

#: Options before the command, with their variables.
BEFORE = {"--quiet": "EVORAY_QUIET", "--verbose": "EVORAY_VERBOSE"}

#: Arguments and options of each command.
COMMANDS = {
    "demo": "--out --small --anew",
    "init": "path --pool --target --model --k --rounds --out",
    "schema": "kind",
    "run": "config --address --set --out --seed --anew",
    "plan": "config --address --set --out --seed --rows",
    "submit": "config --address --set --out --follow --retries",
    "generate": "config --address --set --out --seed",
    "featurize": "--pool --model --out --adapter --representation --dim --seed --max-tokens --set --address",
    "select": "--k --out --pool --target --model --selector --adapter --features --target-features --option --seed "
    "--set --address",
    "score": "--potentials --out --pool --features --set --address",
    "train": "--data --model --out --adapter --target --seed --set --address",
    "evaluate": "--model --target --adapter --against-model --against-adapter --split --out --scores --seed --set "
    "--address",
    "compare": "config --address --set --out",
    "export": "source --out --form --rounds --model",
    "report": "run_dir --form",
    "status": "run_dir --watch --every",
    "doctor": "run_dir --dashboard",
}


def test_the_public_names_are_these() -> None:
    assert evoray.__all__ == NAMES
    assert all(getattr(evoray, name).__name__ == name for name in NAMES)


def test_no_public_name_is_also_a_module_of_the_package() -> None:
    # Importing a submodule rebinds its name in the package: the public name would turn into the module.
    assert {module.name for module in pkgutil.iter_modules(evoray.__path__)} & set(NAMES) == set()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_of_public_functions(name: str) -> None:
    positional, _, by_name = PARAMETERS[name].partition("|")
    parameters = inspect.signature(getattr(evoray, name)).parameters.values()
    found_by_name = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert [p.name for p in parameters if p.name not in found_by_name] == positional.split()
    assert found_by_name == by_name.split()


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_fields_of_public_records(name: str) -> None:
    assert list(getattr(evoray, name).__dataclass_fields__) == FIELDS[name].split()


@pytest.mark.parametrize("section", sorted(CONFIG_KEYS))
def test_keys_of_the_config(section: str) -> None:
    model = evoray.RunConfig.model_fields[section].annotation if section else evoray.RunConfig
    (model,) = [part for part in get_args(model) if part is not type(None)] or [model]  # a section that may be absent
    keys = [field.alias or name for name, field in model.model_fields.items()]  # type: ignore[union-attr]
    assert keys == CONFIG_KEYS[section].split()


def test_keys_of_the_config_of_a_comparison() -> None:
    assert list(evoray.ComparisonConfig.model_fields) == COMPARISON_KEYS.split()


def test_the_commands_are_these() -> None:
    assert list(typer.main.get_command(app).commands) == list(COMMANDS)  # type: ignore[attr-defined]


def test_the_options_before_a_command_are_these() -> None:
    found = typer.main.get_command(app).params
    assert {one.opts[0]: one.envvar for one in found if "completion" not in one.opts[0]} == BEFORE


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_of_commands(command: str) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert [parameter.opts[0] for parameter in found.params] == COMMANDS[command].split()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_explains_itself(command: str) -> None:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert found.help
    assert [parameter.name for parameter in found.params if not parameter.help] == []


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("evoray, evoray.cli", {"ray", "torch", "transformers"}),
        ("evoray.pipeline, evoray.single", {"torch", "transformers"}),
    ],
    ids=["package", "driver"],
)
def test_imports_stay_light(modules: str, heavy: set[str]) -> None:
    """The driver holds no model: torch is for its workers."""
    code = f"import sys, {modules}; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
