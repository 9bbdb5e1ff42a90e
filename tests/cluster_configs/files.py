"""The files of cluster_configs/, and what is done with them in more than one test."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

from tests.pages import shell_lines
from tests.source_tree import ROOT

FOLDER = ROOT / "cluster_configs"
DOCKERFILE = ROOT / "Dockerfile"
README = FOLDER / "README.md"
LAUNCHED = ("aws", "gcp")  # by Ray's cluster launcher


def constraint(package: str) -> str:
    """The version of a package that evoray is tested with."""
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


def plain(value: Any) -> Any:
    """The same without parts that are one object in several places, as anchors of YAML make them."""
    return json.loads(json.dumps(value))


def documents(name: str) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [plain(document) for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))]


def launcher_config(cloud: str) -> dict[str, Any]:
    """A config of Ray's cluster launcher."""
    (config,) = documents(f"{cloud}.yaml")
    return config


def shell(name: str) -> list[str]:
    """The commands of README.md or another file of the folder, a line each, as a shell would join them."""
    return shell_lines((FOLDER / name).read_text(encoding="utf-8"))


def misspelt(document: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The document with the last letter of one key twice. path: keys and positions with dots between them."""
    changed = copy.deepcopy(dict(document))
    *way, key = path.split("/")
    place: Any = changed
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    place[key + key[-1]] = place.pop(key)
    return changed


def strict(schema: Any) -> Any:
    """A schema of Kubernetes under which an unknown field is an error; it would be dropped in silence there."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items() if key != "properties"}
    if "properties" in schema:
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made.setdefault("type", ["integer", "string"])
    return made


def violations(document: Any, schema: Mapping[str, Any]) -> list[str]:
    """What in a document the schema does not allow, with its place."""
    found = Draft7Validator(schema).iter_errors(document)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def strings(value: Any) -> Iterator[str]:
    """All strings in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a document."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from mappings(part)
    elif isinstance(value, list):
        for part in value:
            yield from mappings(part)


def every_file() -> list[Path]:
    """All that is kept here, and the image's own files."""
    return [*sorted(path for path in FOLDER.iterdir() if path.is_file()), DOCKERFILE, ROOT / ".dockerignore"]
