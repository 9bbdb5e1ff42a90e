"""The configs of Ray's cluster launcher, against Ray's own schema and what the clouds' interfaces take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster_configs.files import FOLDER, LAUNCHED, launcher_config, misspelt, violations

clouds = pytest.mark.parametrize("cloud", LAUNCHED)


def machines(cloud: str) -> dict[str, dict[str, Any]]:
    """What each kind of node asks the cloud for."""
    return {name: kind["node_config"] for name, kind in launcher_config(cloud)["available_node_types"].items()}


@clouds
def test_ray_takes_the_config(cloud: str) -> None:
    validate_config(prepare_config(launcher_config(cloud)))


@clouds
@pytest.mark.parametrize(
    "path",
    [
        "max_workers",
        "idle_timeout_minutes",
        "provider/type",
        "auth/ssh_user",
        "docker/run_options",
        "docker/head_run_options",
        "available_node_types/gpu/min_workers",
        "available_node_types/cpu/node_config",
        "head_start_ray_commands",
    ],
)
def test_ray_refuses_the_config_with_a_misspelt_key(cloud: str, path: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config({"cluster_synced_files": [], **misspelt(launcher_config(cloud), path)})


@clouds
def test_the_head_computes_nothing_and_workers_come_only_when_work_waits(cloud: str) -> None:
    config = launcher_config(cloud)
    kinds = dict(config["available_node_types"])
    assert kinds.pop(config["head_node_type"])["resources"] == {"CPU": 0}
    assert [kind["min_workers"] for kind in kinds.values()] == [0, 0]
    assert all(0 < kind["max_workers"] <= config["max_workers"] for kind in kinds.values())
    assert sum("GPU" in kind["resources"] for kind in kinds.values()) == 1


@clouds
def test_only_the_head_is_on_demand(cloud: str) -> None:
    spot = {
        "aws": lambda machine: machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot",
        "gcp": lambda machine: machine.get("scheduling", {}).get("provisioningModel") == "SPOT",
    }[cloud]
    assert {name: spot(machine) for name, machine in machines(cloud).items()} == {
        "head": False,
        "gpu": True,
        "cpu": True,
    }


def unknown_to_ec2(machine: dict[str, Any]) -> str:
    """What boto3's model of the API says against a machine; empty: nothing."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    return str(ParamValidator().validate({**machine, "MinCount": 1, "MaxCount": 1}, shape).generate_report())


def test_aws_takes_the_machines() -> None:
    assert {name: unknown_to_ec2(machine) for name, machine in machines("aws").items()} == {
        "head": "",
        "gpu": "",
        "cpu": "",
    }


@pytest.mark.parametrize("path", ["InstanceType", "MetadataOptions/HttpTokens", "BlockDeviceMappings/0/Ebs/Encrypted"])
def test_aws_refuses_a_machine_with_a_misspelt_key(path: str) -> None:
    assert "Unknown parameter" in unknown_to_ec2(misspelt(machines("aws")["gpu"], path))


@pytest.fixture(scope="module")
def gce_instance() -> dict[str, Any]:
    """The schema of a machine, from the description of Google's API that its client brings along."""
    package = pytest.importorskip("googleapiclient", reason="no google-api-python-client: pip install -e '.[gcp]'")
    described = Path(package.__file__).parent / "discovery_cache" / "documents" / "compute.v1.json"
    schemas = json.loads(described.read_text(encoding="utf-8"))["schemas"]

    def translated(schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return {"$ref": f"#/definitions/{schema['$ref']}"}
        made = {key: schema[key] for key in ("type", "enum") if schema.get(key) not in (None, "any")}
        for key in ("items", "additionalProperties"):
            if key in schema:
                made[key] = translated(schema[key])
        if "properties" in schema:
            made["properties"] = {name: translated(part) for name, part in schema["properties"].items()}
            made.setdefault("additionalProperties", False)
        return made

    return {
        "$ref": "#/definitions/Instance",
        "definitions": {name: translated(part) for name, part in schemas.items()},
    }


def test_google_takes_the_machines(gce_instance: dict[str, Any]) -> None:
    assert {name: violations(machine, gce_instance) for name, machine in machines("gcp").items()} == {
        "head": [],
        "gpu": [],
        "cpu": [],
    }


@pytest.mark.parametrize("path", ["machineType", "scheduling/provisioningModel", "disks/0/initializeParams/diskSizeGb"])
def test_google_refuses_a_machine_with_a_misspelt_key(gce_instance: dict[str, Any], path: str) -> None:
    assert violations(misspelt(machines("gcp")["gpu"], path), gce_instance)


def policy(who: str) -> list[dict[str, Any]]:
    """The statements of an AWS policy."""
    statements: list[dict[str, Any]] = json.loads((FOLDER / f"aws-{who}-policy.json").read_text())["Statement"]
    return statements


def actions(statements: list[dict[str, Any]]) -> set[str]:
    """All that a policy allows."""
    listed = [statement["Action"] for statement in statements]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


def test_the_policies_name_every_action_and_only_this_cluster() -> None:
    statements = [*policy("head"), *policy("worker")]
    assert all(statement["Effect"] == "Allow" for statement in statements)
    assert [action for action in actions(statements) if "*" in action] == []
    assert [action for action in actions(policy("worker")) if not action.startswith("s3:")] == []
    changes = [s for s in policy("head") if {"ec2:TerminateInstances", "ec2:RunInstances"} & actions([s])]
    tags = {json.dumps(s["Condition"]["StringEquals"]) for s in changes if "Condition" in s}
    cluster = launcher_config("aws")["cluster_name"]
    assert tags == {f'{{"aws:{kind}Tag/ray-cluster-name": "{cluster}"}}' for kind in ("Request", "Resource")}
    (passed,) = [statement for statement in policy("head") if actions([statement]) == {"iam:PassRole"}]
    profiles = {machine["IamInstanceProfile"]["Name"] for name, machine in machines("aws").items() if name != "head"}
    assert {passed["Resource"].rpartition("/")[2]} == profiles


def test_the_role_on_google_cloud_has_what_ray_calls_there_and_no_wildcard() -> None:
    role = yaml.safe_load((FOLDER / "gcp-head-role.yaml").read_text())
    calls = {"create", "delete", "get", "list", "setLabels", "setServiceAccount"}
    granted = set(role["includedPermissions"])
    assert {f"compute.instances.{call}" for call in calls} | {"compute.zoneOperations.get"} <= granted
    assert all(one.count(".") == 2 and one.startswith("compute.") and "*" not in one for one in granted)
    accounts = {name: machine["serviceAccounts"][0]["email"] for name, machine in machines("gcp").items()}
    assert [email.partition("@")[0] for email in accounts.values()] == ["evoray-head", "evoray-worker", "evoray-worker"]
