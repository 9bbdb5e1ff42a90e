"""The Dockerfile, as far as it can be looked at without building it: what it copies, installs, and leaves behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from typing import Any

import pytest

from tests.cluster_configs.files import DOCKERFILE, constraint
from tests.source_tree import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments, on one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def arguments(instruction: str) -> list[str]:
    """The arguments of every instruction of a kind."""
    return [rest for word, rest in instructions() if word == instruction]


def last_stage() -> list[tuple[str, str]]:
    """The instructions of what is kept."""
    begins = [index for index, (word, _) in enumerate(instructions()) if word == "FROM"]
    return instructions()[begins[-1] :]


def copied() -> list[str]:
    """What is copied from the project."""
    return [source for rest in arguments("COPY") if "--from=" not in rest for source in rest.split()[:-1]]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path through."""
    kept = True
    for pattern in (ROOT / ".dockerignore").read_text().split("\n"):
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!")
            parents = {"/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 2)}
            if any(fnmatch(parent, bare) for parent in parents):
                kept = pattern.startswith("!")
    return kept


def test_what_is_copied_exists_and_gets_through() -> None:
    assert {"constraints.txt", "pyproject.toml", "evoray", "jobs"} <= set(copied())
    assert [source for source in copied() if not (ROOT / source).exists() or not in_context(source)] == []


def test_nothing_else_gets_into_the_image() -> None:
    kept = {path.name for path in ROOT.iterdir() if in_context(path.name)}
    assert kept == {source for source in copied() if "/" not in source}
    assert [
        name for name in ("tests/tiny.py", "runs/key", ".git/config", "cluster_configs/aws.yaml") if in_context(name)
    ] == []


def test_every_package_is_pinned() -> None:
    installs = [part for rest in arguments("RUN") for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 4
    for install in installs:
        pins = ("--constraint constraints.txt", "--requirement torch.txt", "--no-deps")
        assert any(pin in install for pin in pins), install
    assert "grep '^torch==' constraints.txt > torch.txt" in " ".join(arguments("RUN"))


def test_the_embedded_models_are_those_of_the_makefile() -> None:
    models = re.findall(r"\S+==\S+", re.findall(r"EMBEDDED_MODELS := (.*)", (ROOT / "Makefile").read_text())[0])
    assert len(models) == 2
    assert all(model in " ".join(arguments("RUN")) for model in models)


def test_a_cloud_is_an_extra_of_the_project_and_pinned() -> None:
    (default,) = [rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith("CLOUD=")]
    assert default == "aws"
    for cloud in ("aws", "gcp"):
        assert [constraint(re.split("[><=]", package)[0]) for package in PROJECT["optional-dependencies"][cloud]]


def test_python_is_the_one_that_the_pins_are_for_in_every_stage() -> None:
    (python,) = [rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith("PYTHON=")]
    assert f"on Python {python}." in (ROOT / "constraints.txt").read_text()
    bases = {rest.split()[0] for rest in arguments("FROM")}
    assert bases == {"python:${PYTHON}-slim-bookworm", "packages"}


def test_the_version_is_the_projects() -> None:
    (version,) = [rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith("VERSION=")]
    assert version == PROJECT["version"]


def test_the_image_has_no_tools_but_those_it_needs_and_runs_as_an_ordinary_user() -> None:
    kept = last_stage()
    (system,) = [rest for word, rest in kept if word == "RUN" and "apt-get" in rest]
    (packages,) = re.findall(r"--no-install-recommends ([^&]+?) &&", system)
    assert packages.split() == ["g++", "openssh-client", "rsync"]  # a compiler for DeepSpeed, and Ray's launcher
    assert "rm -rf /var/lib/apt/lists/*" in system
    assert [rest for word, rest in kept if word == "USER"] == ["$UID"]
    order = [word for word, _ in kept]
    assert order.index("USER") > max(index for index, word in enumerate(order) if word in ("RUN", "COPY"))
    assert "ENTRYPOINT" not in order  # Ray's launcher and KubeRay give the command


def test_the_environment_holds_in_login_shells_and_for_rays_launcher() -> None:
    environment = dict(
        pair.split("=", 1) for rest in (r for w, r in last_stage() if w == "ENV") for pair in rest.split()
    )
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["HOME"] == "/home/evoray"
    assert environment["PATH"] == "/opt/evoray/bin:$PATH"
    profile = "echo 'export PATH=/opt/evoray/bin:$PATH' > /etc/profile.d/evoray.sh"
    assert any(profile in rest for word, rest in last_stage() if word == "RUN")


def test_docker_finds_nothing_wrong() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "buildx", "inspect"], capture_output=True, timeout=60).returncode:
        pytest.skip("no Docker that builds: the Dockerfile was only read")
    done = subprocess.run([docker, "build", "--check", "."], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
