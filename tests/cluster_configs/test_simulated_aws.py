"""Ray's launcher with aws.yaml, on a simulation of AWS: every kind of machine starts, and the policy is enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

from tests.cluster_configs.files import launcher_config
from tests.cluster_configs.test_launcher import actions, policy


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """aws.yaml with an account's values in the place of those to edit, in a simulated account that has them."""
    config = launcher_config("aws")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the key that it makes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    with mock_aws():
        ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        network = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="evoray", Description="evoray", VpcId=network)["GroupId"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for role in ("evoray-head", "evoray-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=role)
        for kind in config["available_node_types"].values():
            kind["node_config"] |= {"ImageId": image, "SecurityGroupIds": [group]}
        yield config


@pytest.mark.slow
def test_ray_starts_and_ends_every_kind_of_machine_by_what_the_heads_policy_allows(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    ready = AWSNodeProvider.bootstrap_config(prepare_config(config))
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    called: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        called.add(f"{model.service_model.service_name}:{model.name}")

    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.*", note)
    for name, kind in ready["available_node_types"].items():
        tags = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_NAME: name}
        provider.create_node(kind["node_config"], tags, 1)
    nodes = provider.non_terminated_nodes({})
    provider.set_node_tags(nodes[0], {"status": "up-to-date"})
    started = [provider._get_cached_node(node) for node in nodes]
    assert {(machine.instance_type, machine.instance_lifecycle) for machine in started} == {
        ("m7i.xlarge", None),
        ("g5.2xlarge", "spot"),
        ("m7i.2xlarge", "spot"),
    }
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({}) == []
    assert called == {"ec2:RunInstances", "ec2:DescribeInstances", "ec2:CreateTags", "ec2:TerminateInstances"}
    assert called <= actions(policy("head"))
