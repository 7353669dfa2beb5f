"""The fields of KubeRay's own resources that deploy/kuberay uses, as its API reference (ray.io/v1) has them.

KubeRay's schemas cannot be had from PyPI. A field that is not here is refused: a name that is mistyped, or
one that has to be looked up first. What Kubernetes itself defines within them, such as the templates of pods,
is checked against its schemas elsewhere.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from cluster.connection.connect import FINETUNE, PRETRAIN


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


def _known_resources(parameters: dict[str, str]) -> dict[str, str]:
    """``resources`` is JSON within the quotes of a shell: an amount for each name of ours."""
    given = parameters.get("resources", '"{}"')
    assert given.startswith('"')
    assert given.endswith('"')
    amounts = json.loads(json.loads(given))
    assert set(amounts) <= {PRETRAIN, FINETUNE}
    assert all(isinstance(amount, int) and amount > 0 for amount in amounts.values())
    return parameters


StartParameters = Annotated[dict[str, str], AfterValidator(_known_resources)]
Count = Annotated[int, Field(ge=0)]


class AuthOptions(Fields):
    mode: Literal["token", "disabled"]
    secret_name: str


class AutoscalerOptions(Fields):
    resources: dict[str, Any]
    idle_timeout_seconds: Count
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"]
    security_context: dict[str, Any]


class HeadGroup(Fields):
    ray_start_params: StartParameters
    template: dict[str, Any]


class WorkerGroup(Fields):
    group_name: str
    replicas: Count
    min_replicas: Count
    max_replicas: Count
    ray_start_params: StartParameters
    template: dict[str, Any]

    @model_validator(mode="after")
    def _in_order(self) -> WorkerGroup:
        assert self.min_replicas <= self.replicas <= self.max_replicas
        return self


class ClusterSpec(Fields):
    ray_version: str
    auth_options: AuthOptions
    enable_in_tree_autoscaling: bool
    autoscaler_options: AutoscalerOptions | None = None
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class SubmitterConfig(Fields):
    backoff_limit: Count


class JobSpec(Fields):
    entrypoint: str
    backoff_limit: Count
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    submitter_config: SubmitterConfig
    submitter_pod_template: dict[str, Any]
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: Count
    ray_cluster_spec: ClusterSpec


class ServiceSpec(Fields):
    exclude_head_pod_from_serve_svc: bool
    serve_config_v2: str = Field(alias="serveConfigV2")
    ray_cluster_config: ClusterSpec


class RayCluster(Fields):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: dict[str, Any]
    spec: ClusterSpec


class RayJob(Fields):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: dict[str, Any]
    spec: JobSpec


class RayService(Fields):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: dict[str, Any]
    spec: ServiceSpec
