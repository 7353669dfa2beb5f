"""deploy/kuberay against Kubernetes' schemas, KubeRay's fields, and what must hold between the files."""

from __future__ import annotations

import configparser
import json
import shlex
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from kuberay_fields import ClusterSpec, RayCluster, RayJob, RayService, ServiceSpec
from kubernetes_validate import validate
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from cluster.connection.connect import FINETUNE, PRETRAIN
from cluster.serving.api import make_app
from launcher.cli.main import app
from launcher.configuration.load import load_pretrain

FOLDER = Path(__file__).parents[2] / "deploy" / "kuberay"
KUBERNETES = "1.33"
SECRETS = {
    "odeformer-ray": {"auth_token"},
    "odeformer-postgres": {"password"},
    "odeformer-mlflow": {"admin_password", "secret_key"},
    "odeformer-mlflow-ray": {"username", "password"},
    "odeformer-objects": {"s3.json"},
    "odeformer-objects-mlflow": {"access_key", "secret_key"},
    "odeformer-objects-ray": {"access_key", "secret_key"},
    "odeformer-serve-ray": {"keys.json"},
}
"""As docs/deploy.md has them made."""


def manifests() -> list[dict[str, Any]]:
    """All resources of all files, but for kustomize's own."""
    files = sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "kustomization.yaml"})
    return [content for file in files for content in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests() if manifest["kind"] == kind]


def specs_of_clusters() -> list[ClusterSpec]:
    return [
        *(RayCluster.model_validate(manifest).spec for manifest in of_kind("RayCluster")),
        *(RayJob.model_validate(manifest).spec.ray_cluster_spec for manifest in of_kind("RayJob")),
        service().ray_cluster_config,
    ]


def service() -> ServiceSpec:
    [manifest] = of_kind("RayService")
    return RayService.model_validate(manifest).spec


def templates() -> Iterator[dict[str, Any]]:
    """Of all pods that would run."""
    for manifest in manifests():
        if manifest["kind"] in ("StatefulSet", "Deployment"):
            yield manifest["spec"]["template"]
    for manifest in of_kind("RayJob"):
        yield manifest["spec"]["submitterPodTemplate"]
    for spec in specs_of_clusters():
        yield spec.head_group_spec.template
        yield from (group.template for group in spec.worker_group_specs)


def inner(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from inner(part)


def test_what_kubernetes_defines_fits_its_schemas() -> None:
    own = [manifest for manifest in manifests() if not manifest["apiVersion"].startswith("ray.io")]
    assert {manifest["kind"] for manifest in own} == {
        *(
            "Namespace",
            "PersistentVolumeClaim",
            "Service",
            "StatefulSet",
            "Deployment",
            "NetworkPolicy",
            "ConfigMap",
        )
    }
    for manifest in own:
        validate(manifest, KUBERNETES, strict=True)
    for template in templates():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | template["metadata"]}
        validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


def test_a_field_that_nobody_knows_is_found() -> None:
    [manifest] = of_kind("Namespace")
    with pytest.raises(Exception, match="spec"):
        validate(manifest | {"spec": {"no_such_field": []}}, KUBERNETES, strict=True)
    [cluster] = of_kind("RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["minReplica"] = 0
    with pytest.raises(ValueError, match="minReplica"):
        RayCluster.model_validate(cluster)


def test_the_two_kinds_of_work_have_nodes_of_their_own() -> None:
    [standing] = [RayCluster.model_validate(manifest).spec for manifest in of_kind("RayCluster")]
    groups = {group.group_name: group for group in standing.worker_group_specs}
    assert set(groups) == {PRETRAIN, FINETUNE}
    for name, group in groups.items():
        offered = json.loads(json.loads(group.ray_start_params["resources"]))
        [container] = group.template["spec"]["containers"]
        gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
        assert offered == {name: gpus}, "a place for each GPU"
    assert "resources" not in standing.head_group_spec.ray_start_params
    assert standing.head_group_spec.ray_start_params["num-cpus"] == "0", "the head does no work"
    [job] = [RayJob.model_validate(manifest).spec for manifest in of_kind("RayJob")]
    [alone] = job.ray_cluster_spec.worker_group_specs
    image = {"image": "registry.example.org/odeformer"}  # kustomize adds the tag where it is applied by it
    for one, other in (
        (alone, groups[PRETRAIN]),
        (job.ray_cluster_spec.head_group_spec, standing.head_group_spec),
    ):
        [container] = one.template["spec"]["containers"]
        [standing_container] = other.template["spec"]["containers"]
        assert container | image == standing_container, "the same machines"


def test_the_job_is_a_command_that_this_version_has(shards: Path, tmp_path: Path) -> None:
    [job] = [RayJob.model_validate(manifest).spec for manifest in of_kind("RayJob")]
    program, verb, config, *options = shlex.split(job.entrypoint)
    assert (program, verb) == ("odeformer", "pretrain")
    assert config.startswith("/shared/")
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    command.make_context(verb, [config, *options])
    overrides = options[1::2]
    settings = load_pretrain("small", [*overrides, f"data.shards={shards}", f"run.dir={tmp_path}"])
    [group] = job.ray_cluster_spec.worker_group_specs
    places = group.max_replicas * json.loads(json.loads(group.ray_start_params["resources"]))[PRETRAIN]
    assert settings.cluster.workers <= places, "there may be that many"


def test_the_service_is_an_application_that_this_version_has() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(service().serve_config_v2))
    [application] = config.applications
    module, _, builder = application.import_path.partition(":")
    build = getattr(import_module(module), builder)
    assert isinstance(build(application.args), Application)
    for wrong, words in (({"keys": None}, "keys is missing"), ({"depth": 4}, "Extra inputs")):
        with pytest.raises(ValueError, match=words):
            build({**application.args, **wrong})

    [group] = service().ray_cluster_config.worker_group_specs
    [container] = group.template["spec"]["containers"]
    keys = Path(application.args["keys"])
    assert {"name": "keys", "mountPath": str(keys.parent), "readOnly": True} in container["volumeMounts"]
    assert application.args["cpus"] < int(container["resources"]["limits"]["cpu"]), "Ray's own need some"
    [port] = [port["containerPort"] for port in container["ports"] if port["name"] == "serve"]
    assert config.http_options.port == port == container["readinessProbe"]["httpGet"]["port"]
    ended = container["readinessProbe"]["httpGet"]["path"]
    server: Any = SimpleNamespace(
        settings=SimpleNamespace(most_streams=1, webhook_secret=None), metrics=SimpleNamespace(refused=None)
    )
    assert ended in {route.path for route in make_app(server).routes}  # type: ignore[attr-defined]


def test_nobody_is_root_and_nobody_may_become_it() -> None:
    for template in templates():
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_secrets_are_named_and_never_written_down() -> None:
    used: dict[str, set[str]] = {"odeformer-ray": {"auth_token"}}  # as KubeRay wants the key to be called
    for value in inner(manifests()):
        if "secretKeyRef" in value:
            used.setdefault(value["secretKeyRef"]["name"], set()).add(value["secretKeyRef"]["key"])
        if "secretName" in value and "items" in value:
            used.setdefault(value["secretName"], set()).update(item["key"] for item in value["items"])
        name = str(value.get("name", ""))
        if any(word in name for word in ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY")):
            assert "value" not in value, name
    assert used == SECRETS
    assert {spec.auth_options.secret_name for spec in specs_of_clusters()} == {"odeformer-ray"}
    page = (FOLDER.parents[1] / "docs" / "deploy.md").read_text()
    for name, keys in SECRETS.items():
        assert f"create secret generic {name}" in page
        assert all(key in page for key in keys)


def test_each_part_has_only_the_keys_of_its_own() -> None:
    for template in templates():
        part = template["metadata"]["labels"].get("odeformer/part") or template["metadata"]["labels"]["app"]
        for value in inner(template):
            name = value.get("secretKeyRef", value).get("name", "") if "secretKeyRef" in value else ""
            if "objects" in name or "mlflow" in name:
                assert name.endswith(f"-{part}") or name == f"odeformer-{part}", (part, name)
        for container in template["spec"]["containers"]:
            said = " ".join([*container.get("command", []), *container.get("args", [])])
            assert "PASSWORD" not in said.upper(), "arguments can be read by everybody who may list processes"
    page = (FOLDER.parents[1] / "docs" / "deploy.md").read_text()
    identities = json.loads(page.split("cat > s3.json <<END\n")[1].split("\nEND\n")[0])["identities"]
    actions = {identity["name"]: set(identity["actions"]) for identity in identities}
    assert actions["mlflow"] == {"Read:mlflow", "Write:mlflow", "List:mlflow"}
    assert actions["ray"] == {"Read:shards", "List:shards", "Read:mirror", "Write:mirror", "List:mirror"}
    assert not any("Admin" in action for known in actions.values() for action in known)


def test_workers_have_no_account_of_kubernetes() -> None:
    for spec in specs_of_clusters():
        for group in spec.worker_group_specs:
            assert group.template["spec"]["automountServiceAccountToken"] is False


def test_mlflow_asks_for_accounts() -> None:
    [mlflow] = [d for d in of_kind("Deployment") if d["metadata"]["name"] == "mlflow"]
    [container] = mlflow["spec"]["template"]["spec"]["containers"]
    assert "--app-name=basic-auth" in container["command"]
    [accounts] = of_kind("ConfigMap")
    settings = configparser.ConfigParser()
    settings.read_string(accounts["data"]["auth.ini"])
    assert settings["mlflow"]["default_permission"] == "READ"
    assert "admin_password" not in settings["mlflow"]


def test_policies_let_in_only_those_who_are_there() -> None:
    labels = [template["metadata"]["labels"] for template in templates()]
    closed, *policies = of_kind("NetworkPolicy")
    [leaving] = [policy for policy in policies if policy["spec"]["policyTypes"] == ["Egress"]]
    policies.remove(leaving)
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}, "nobody by default"
    assert leaving["spec"]["podSelector"] == {}
    assert leaving["spec"]["policyTypes"] == ["Egress"]
    [rule] = leaving["spec"]["egress"]
    blocks = [to["ipBlock"] for to in rule["to"] if "ipBlock" in to]
    for metadata in map(ip_address, ("169.254.169.254", "fd00:ec2::254")):
        [block] = [block for block in blocks if metadata in ip_network(block["cidr"])]
        assert any(metadata in ip_network(left_out) for left_out in block["except"])
    ours = [
        selector["podSelector"]["matchLabels"]
        for policy in policies
        for rule in policy["spec"]["ingress"]
        for selector in rule["from"]
        if "namespaceSelector" not in selector
    ]
    for wanted in [*ours, *(policy["spec"]["podSelector"]["matchLabels"] for policy in policies)]:
        assert any(wanted.items() <= there.items() for there in labels), wanted
    services = {service["spec"]["ports"][0]["port"] for service in of_kind("Service")}
    opened = {
        port["port"]
        for policy in policies
        for rule in policy["spec"]["ingress"]
        for port in rule.get("ports", [])
    }
    assert services <= opened


def test_the_versions_are_those_that_are_installed() -> None:
    assert {spec.ray_version for spec in specs_of_clusters()} == {version("ray")}
    content = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert content["images"] == [{"name": "registry.example.org/odeformer", "newTag": version("odeformer")}]
    assert all((FOLDER / name).is_file() for name in content["resources"])
