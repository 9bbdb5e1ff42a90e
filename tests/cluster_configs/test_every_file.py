"""What holds for all files together: no secret, a token everywhere, one version of each thing, true instructions."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from evoray.config_file import load_config
from tests.cluster_configs.files import (
    DOCKERFILE,
    LAUNCHED,
    README,
    constraint,
    every_file,
    launcher_config,
    shell,
    strings,
)
from tests.cluster_configs.test_kubernetes import RAY_RESOURCES, all_objects, cluster_spec
from tests.pages import MACHINE, unknown_to_ray
from tests.source_tree import ROOT

clouds = pytest.mark.parametrize("cloud", LAUNCHED)

_KNOWN_KEYS = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|\b(?:ghp|gho|hf|sk|xox[bp])[-_][A-Za-z0-9]{16,}|ya29\.")
_GIVEN = re.compile(r"(?i)(?:password|passwd|token|secret|api_?key)[\"']?[ \t]*[:=][ \t]*[\"']?([^\s\"'{}$,]+)")
_RANDOM = re.compile(r"[A-Za-z0-9+/=_]{24,}")
#: What follows one of those words without being a secret.
_NAMES = {
    "token",
    "/home/evoray/.secrets/auth_token",
    "...",
    "false",
    "~/.evoray-cluster/auth_token",
}


def secrets(text: str) -> list[str]:
    """What in a text looks like a key, a password or a token itself, instead of where it is."""
    given = [value for value in _GIVEN.findall(text) if value.rstrip("`") not in _NAMES]
    random = [word for word in _RANDOM.findall(text) if len(re.findall(r"\d", word)) > 4 and "/" not in word]
    return [*_KNOWN_KEYS.findall(text), *given, *random]


def test_no_file_holds_a_secret() -> None:
    assert {path.name: secrets(path.read_text(encoding="utf-8")) for path in every_file()} == {
        path.name: [] for path in every_file()
    }


@pytest.mark.parametrize(
    "text",
    [
        "-e RAY_AUTH_TOKEN=abc",
        "password: hunter2",
        '"token": "0"',
        "  value: 9f86d081884c7d659a2feaa0c55ad015",
        "aws: AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN RSA PRIVATE KEY-----",
        "- -e HF=hf_abcdefghijklmnopqr",
    ],
)
def test_a_secret_is_noticed(text: str) -> None:
    assert secrets(text)


@clouds
def test_the_token_comes_from_a_mounted_folder_and_stands_in_no_option(cloud: str) -> None:
    config = launcher_config(cloud)
    options = dict(re.findall(r"-e (\w+)=(\S+)", "\n".join(config["docker"]["run_options"])))
    assert options["RAY_AUTH_MODE"] == "token"
    folder, _, _ = options["RAY_AUTH_TOKEN_PATH"].rpartition("/")
    (mounted,) = config["file_mounts"].items()
    assert mounted == (folder, "~/.evoray-cluster")
    assert "RAY_AUTH_TOKEN" not in options
    assert "> ~/.evoray-cluster/auth_token" in README.read_text()


@pytest.mark.parametrize("kind", RAY_RESOURCES)
def test_kuberay_makes_the_token(kind: str) -> None:
    assert cluster_spec(kind)["authOptions"] == {"mode": "token"}


@clouds
def test_the_dashboard_is_on_loopback(cloud: str) -> None:
    (start,) = [command for command in launcher_config(cloud)["head_start_ray_commands"] if "--head" in command]
    assert re.findall(r"--dashboard-host\S+", start) == ["--dashboard-host=127.0.0.1"]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_no_start_of_ray_opens_the_dashboard() -> None:
    starts = [command for _, command in ray_commands() if "--head" in command]
    assert len(starts) == 3  # two clouds, and the one by hand
    assert [command for command in starts if "--dashboard-host=127.0.0.1" not in command] == []


def test_all_run_one_image_of_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = [text for cloud in LAUNCHED for text in strings(launcher_config(cloud)) if text.startswith("registry.")]
    found += [text for made in all_objects() for text in strings(made) if text.startswith("registry.")]
    found += re.findall(r"registry\.\S+", README.read_text() + DOCKERFILE.read_text())
    assert set(found) == {f"registry.example.com/evoray:{version}"}
    assert len(found) > 8


def test_versions_are_those_that_evoray_is_tested_with() -> None:
    assert [cluster_spec(kind)["rayVersion"] for kind in RAY_RESOURCES] == [constraint("ray")] * 2


def test_the_readme_has_every_file() -> None:
    text = README.read_text()
    short = {
        "deepspeed-zero2.json": "`-zero2`",
        "deepspeed-zero3.json": "`-zero3`",
        ".dockerignore": "",
        "README.md": "",
    }
    assert [path.name for path in every_file() if short.get(path.name, f"`{path.name}`") not in text] == []


def test_commands_of_the_readme_name_files_that_exist() -> None:
    words = [word for line in shell("README.md") for word in re.split(r"[\s='\"]+", line)]
    named = {
        word.removeprefix("file://") for word in words if re.match(r"(file://)?(cluster_configs|jobs|tests)(/|$)", word)
    }
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_job_of_the_readme_is_one_that_evoray_takes() -> None:
    (line,) = [line for line in shell("README.md") if line.startswith("ray job submit")]
    before, _, after = line.partition(" -- ")
    folder = ROOT / before.split("--working-dir ")[1]
    program, script, config, *rest = shlex.split(after)
    assert (program, (folder / script).is_file()) == ("python", True)
    given = dict(zip([i for i in range(len(rest)) if i % 2 == 0], rest[1::2], strict=True))
    overrides = [given[i] for i in given if rest[i] == "--set"]
    (out,) = [given[i] for i in given if rest[i] == "--out"]
    loaded = load_config(folder / config, overrides, out=out)
    assert (loaded.out, loaded.cluster.workers, loaded.cluster.gpus_per_worker) == (out, 4, 1)


def ray_commands() -> Iterator[tuple[str, str]]:
    """Where a command `ray ...` stands, and it."""
    for line in shell("README.md"):
        if line.startswith("ray "):
            yield "README.md", line
    for cloud in LAUNCHED:
        config = launcher_config(cloud)
        for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
            yield f"{cloud}.yaml", command


def test_ray_has_every_command_and_option() -> None:
    commands = list(ray_commands())
    assert len(commands) > 12
    assert {line: unknown_to_ray(line) for _, line in commands} == {line: [] for _, line in commands}


@pytest.mark.parametrize("line", ["ray start --heads", "ray ups aws.yaml", "ray job submit --workdir x -- python y"])
def test_a_command_that_ray_does_not_have_is_noticed(line: str) -> None:
    assert unknown_to_ray(line)


def test_a_cluster_by_hand_has_a_token_too() -> None:
    lines = shell("README.md")
    first = next(index for index, line in enumerate(lines) if line.startswith("ray start"))
    assert any(line.startswith("export RAY_AUTH_MODE=token") for line in lines[:first])
    assert any(line.startswith("export RAY_AUTH_TOKEN=") for line in lines[:first])


def test_no_file_names_a_machine_or_person() -> None:
    assert {path.name: MACHINE.findall(path.read_text(encoding="utf-8")) for path in every_file()} == {
        path.name: [] for path in every_file()
    }


def test_the_folder_holds_text_alone() -> None:
    suffixes = {Path(path).suffix or path.name for path in every_file()}
    assert suffixes <= {".md", ".yaml", ".yml", ".json", "Dockerfile", ".dockerignore"}
