"""The manifests for Kubernetes, against KubeRay's resource definitions, Ray's own reading of them, and one another.

The definitions are in a folder beside the project, or in that of EVORAY_KUBERAY_SCHEMAS.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evoray.config_file import load_config
from evoray.engine.rundir import check_outlives_job
from tests.cluster_configs.files import (
    DOCKERFILE,
    FOLDER,
    README,
    constraint,
    documents,
    mappings,
    misspelt,
    strict,
    violations,
)
from tests.source_tree import ROOT

SCHEMAS = Path(os.environ.get("EVORAY_KUBERAY_SCHEMAS") or ROOT.parent / "shared" / "schemas" / "kuberay")
MANIFESTS = ("kuberay-access", "kuberay-cluster", "kuberay-job", "redis")
RAY_RESOURCES = {"RayCluster": "kuberay-cluster", "RayJob": "kuberay-job"}

resources = pytest.mark.parametrize("kind", RAY_RESOURCES)


def all_objects() -> list[dict[str, Any]]:
    """Every object of every manifest."""
    return [document for name in MANIFESTS for document in documents(f"{name}.yaml")]


def one(kind: str, name: str | None = None) -> dict[str, Any]:
    """The only object of a kind (and a name)."""
    (found,) = [o for o in all_objects() if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    return found


def cluster_spec(kind: str) -> dict[str, Any]:
    """The cluster that a resource describes."""
    spec: dict[str, Any] = one(kind)["spec"]
    return spec if kind == "RayCluster" else spec["rayClusterSpec"]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The template of every pod, and where it is from."""
    for kind in RAY_RESOURCES:
        spec = cluster_spec(kind)
        yield f"{kind} head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{kind} {group['groupName']}", group["template"]
    yield "redis", one("StatefulSet")["spec"]["template"]


def definition(kind: str) -> dict[str, Any]:
    """KubeRay's definition of a resource, under which unknown fields are errors."""
    path = SCHEMAS / f"{kind.lower()}.v1.schema.json"
    if not path.is_file():
        pytest.skip(f"no KubeRay definition at {path}: name its folder in EVORAY_KUBERAY_SCHEMAS")
    made: dict[str, Any] = strict(json.loads(path.read_text(encoding="utf-8")))
    return made


def part_of_cluster(*way: str) -> dict[str, Any]:
    """A definition of Kubernetes' own inside that of a RayCluster."""
    place = definition("RayCluster")["properties"]["spec"]
    for step in way:
        place = place["items"] if step == "items" else place["properties"][step]
    return place


@resources
def test_kuberay_takes_the_resource_with_all_its_pods(kind: str) -> None:
    assert violations(one(kind), definition(kind)) == []


@resources
@pytest.mark.parametrize(
    "path",
    [
        "authOptions/mode",
        "autoscalerOptions/version",
        "enableInTreeAutoscaling",
        "headGroupSpec/rayStartParams",
        "headGroupSpec/template/spec/hostname",
        "headGroupSpec/template/spec/containers/0/envFrom/0/secretRef/optional",
        "headGroupSpec/template/spec/volumes/0/emptyDir/sizeLimit",
        "workerGroupSpecs/0/maxReplicas",
        "workerGroupSpecs/0/template/spec/tolerations/0/operator",
        "workerGroupSpecs/1/template/spec/containers/0/resources/requests",
        "workerGroupSpecs/1/template/spec/securityContext/runAsNonRoot",
    ],
)
def test_a_misspelt_key_is_refused(kind: str, path: str) -> None:
    way = "spec/" if kind == "RayCluster" else "spec/rayClusterSpec/"
    assert violations(misspelt(one(kind), way + path), definition(kind))


@pytest.mark.parametrize("path", ["backoffLimit", "submitterConfig/backoffLimit", "ttlSecondsAfterFinished"])
def test_a_misspelt_key_of_the_job_is_refused(path: str) -> None:
    assert violations(misspelt(one("RayJob"), f"spec/{path}"), definition("RayJob"))


def test_an_amount_that_kubernetes_could_not_read_is_refused() -> None:
    changed = one("RayCluster")
    changed["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "8 GB"
    assert violations(changed, definition("RayCluster"))


def test_redis_is_made_of_parts_that_kubernetes_knows() -> None:
    service, workload = one("Service"), one("StatefulSet")
    template = part_of_cluster("headGroupSpec", "template")
    claim = ("headGroupSpec", "template", "spec", "volumes", "items", "ephemeral", "volumeClaimTemplate")
    assert violations(service, part_of_cluster("headGroupSpec", "headService")) == []
    assert violations(workload["spec"]["template"], template) == []
    assert [violations(made, part_of_cluster(*claim)) for made in workload["spec"]["volumeClaimTemplates"]] == [[]]
    assert violations(misspelt(workload["spec"]["template"], "spec/containers/0/readinessProbe"), template)
    assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == workload["spec"]["template"]["metadata"]["labels"]


def test_the_network_policies_have_rules_that_kubernetes_knows() -> None:
    rule = part_of_cluster("networkPolicy", "head", "ingressRules", "items")
    policies = [made for made in all_objects() if made["kind"] == "NetworkPolicy"]
    assert len(policies) == 2
    assert [violations(ingress, rule) for made in policies for ingress in made["spec"]["ingress"]] == [[]] * 4
    assert violations({"form": policies[0]["spec"]["ingress"][0]["from"]}, rule)


def test_the_network_policy_covers_every_pod_of_ray() -> None:
    (label,) = one("NetworkPolicy", "evoray")["spec"]["podSelector"]["matchLabels"].items()
    assert [where for where, pod in pods() if label not in pod["metadata"]["labels"].items()] == ["redis"]


def test_objects_have_the_group_that_kubernetes_keeps_them_in_and_a_name_once_a_kind() -> None:
    assert {made["kind"]: made["apiVersion"] for made in all_objects()} == {
        "ConfigMap": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
        "RayCluster": "ray.io/v1",
        "RayJob": "ray.io/v1",
        "Service": "v1",
        "ServiceAccount": "v1",
        "StatefulSet": "apps/v1",
    }
    names = [(made["kind"], made["metadata"]["name"]) for made in all_objects()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name) for _, name in names)


@resources
def test_rays_autoscaler_reads_the_groups_as_they_are_meant(kind: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    metadata = {"name": "evoray", "namespace": "default"}
    read = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": cluster_spec(kind)})
    groups = read["available_node_types"]
    found = {name: (g["min_workers"], g["max_workers"], g["resources"]["CPU"]) for name, g in groups.items()}
    assert found == {"headgroup": (0, 0, 0), "gpu": (0, 4, 7), "cpu": (0, 4, 7)}
    assert {name: group["resources"].get("GPU", 0) for name, group in groups.items()} == {
        "headgroup": 0,
        "gpu": 1,
        "cpu": 0,
    }
    assert read["idle_timeout_minutes"] == 10


@resources
def test_the_second_autoscaler_wants_pods_that_are_not_restarted(kind: str) -> None:
    spec = cluster_spec(kind)
    assert (spec["enableInTreeAutoscaling"], spec["autoscalerOptions"]["version"]) == (True, "v2")
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    assert [pod["spec"].get("restartPolicy", "Never") for pod in templates] == ["Never"] * 3


def test_the_job_brings_the_cluster_that_stays_but_for_its_head() -> None:
    stays, brought = cluster_spec("RayCluster"), cluster_spec("RayJob")
    assert stays.pop("gcsFaultToleranceOptions")["redisAddress"].partition(":")[0] == one("Service")["metadata"]["name"]
    heads = [spec["headGroupSpec"]["template"]["spec"] for spec in (stays, brought)]
    assert len({head.pop("hostname") for head in heads}) == 2
    assert heads[1]["containers"][0]["volumeMounts"].pop()["name"] == heads[1]["volumes"].pop()["name"] == "config"
    assert stays == brought


@resources
def test_probes_are_left_to_kuberay_which_chooses_them_by_rays_version(kind: str) -> None:
    spec = cluster_spec(kind)
    assert spec["rayVersion"] == constraint("ray")
    assert [key for part in mappings(spec) for key in part if key.endswith("Probe")] == []


def gibibytes(amount: str) -> float:
    """An amount of memory as Kubernetes writes it."""
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi)?", amount).groups()  # type: ignore[union-attr]
    return int(number) / {"Gi": 1, "Mi": 2**10, None: 2**30}[unit]


@resources
def test_rays_objects_fit_into_the_shared_memory_and_that_into_the_pod(kind: str) -> None:
    spec = cluster_spec(kind)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
        objects = gibibytes(group["rayStartParams"]["object-store-memory"])
        room = gibibytes(volume["emptyDir"]["sizeLimit"])
        assert volume["emptyDir"]["medium"] == "Memory"
        assert objects < room < gibibytes(pod["containers"][0]["resources"]["limits"]["memory"]) / 2


def test_every_pod_runs_as_an_ordinary_user_and_ours_as_that_of_the_image() -> None:
    (number,) = re.findall(r"^ARG UID=(\d+)$", DOCKERFILE.read_text(), re.MULTILINE)
    users = {where: pod["spec"]["securityContext"]["runAsUser"] for where, pod in pods()}
    assert {user for where, user in users.items() if where != "redis"} == {int(number)}
    assert all(pod["spec"]["securityContext"]["runAsNonRoot"] for _, pod in pods())
    for where, pod in pods():
        (container,) = pod["spec"]["containers"]
        security = container["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["capabilities"]["drop"]) == (False, ["ALL"]), where


def test_what_pods_mount_and_refer_to_exists_or_may_be_missing() -> None:
    accounts = {made["metadata"]["name"] for made in all_objects() if made["kind"] == "ServiceAccount"}
    for where, pod in pods():
        spec = pod["spec"]
        claimed = {claim["metadata"]["name"] for claim in one("StatefulSet")["spec"]["volumeClaimTemplates"]}
        volumes = {volume["name"] for volume in spec["volumes"]} | (claimed if where == "redis" else set())
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == volumes, where
        assert spec.get("serviceAccountName") in {None, *accounts}, where
    maps = [
        volume["configMap"]["name"] for _, pod in pods() for volume in pod["spec"]["volumes"] if "configMap" in volume
    ]
    assert maps == [one("ConfigMap")["metadata"]["name"]]


def test_secrets_are_optional_or_made_by_a_command_of_the_readme() -> None:
    made = set(re.findall(r"kubectl create secret generic (\S+)", README.read_text()))
    found = [part for kind in ("RayCluster", "RayJob", "StatefulSet") for part in mappings(one(kind))]
    needed = {part["secretKeyRef"]["name"] for part in found if "secretKeyRef" in part}
    optional = [part["secretRef"] for part in found if "secretRef" in part]
    assert needed == {"evoray-redis"}
    assert needed | {reference["name"] for reference in optional} == made
    assert all(reference["optional"] for reference in optional)


def test_a_run_whose_head_is_lost_is_started_again_and_then_leaves_nothing() -> None:
    spec = one("RayJob")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["submitterConfig"]["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec.get("submissionMode", "K8sJobMode") == "K8sJobMode"


def test_the_job_runs_a_file_of_the_image_with_a_config_that_evoray_takes(tmp_path: Path) -> None:
    program, script, given, *options = shlex.split(one("RayJob")["spec"]["entrypoint"])
    workdir = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)[-1]
    assert (program, (ROOT / script.removeprefix(f"{workdir}/")).is_file()) == ("python", True)
    (mount,) = [
        m
        for m in next(pod for where, pod in pods() if where == "RayJob head")["spec"]["containers"][0]["volumeMounts"]
        if m["name"] == "config"
    ]
    config = tmp_path / given.removeprefix(f"{mount['mountPath']}/")
    config.write_text(one("ConfigMap")["data"][config.name])
    flag, out = options
    assert flag == "--out"
    loaded = load_config(config, ["cluster.address=auto"], out=out)
    check_outlives_job(loaded.out)
    assert loaded.cluster.workers is not None, "the cluster begins without workers"
    (gpus,) = [g for g in cluster_spec("RayJob")["workerGroupSpecs"] if g["groupName"] == "gpu"]
    assert max(loaded.cluster.workers, loaded.training.workers) <= gpus["maxReplicas"]


def test_the_folder_has_no_other_manifest() -> None:
    found = {path.stem for path in FOLDER.glob("*.yaml") if "apiVersion:" in path.read_text(encoding="utf-8")}
    assert found == set(MANIFESTS)
