"""Where and how a cluster runs on Kubernetes; `tidemill render` makes manifests from it.

Only what pools, gateway and the rest of the file do not say already: names of things in the Kubernetes
cluster (nodes, classes, secrets), and how large the pods are that belong to no pool.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from cluster.config.base import HostName, LabelKey, LabelValue, Section

DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")]
"""Name of a Kubernetes object, short enough for what is put behind it."""

ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Name of an object that exists already."""

SecretKeyName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,253}$")]
"""Key within a secret."""

EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,253}$")]
"""Name of an environment variable."""

PathPrefix = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/-]*$")]
"""Beginning of an address's path."""


class SecretRef(Section):
    """One value of a secret that somebody else puts into the namespace; values never stand in manifests."""

    name: ObjectName
    """The secret."""

    key: SecretKeyName
    """Which of its values."""


class SecretsConfig(Section):
    """Secrets that must exist in the namespace before the cluster is applied."""

    admin_key: SecretRef = SecretRef(name="tidemill-admin-key", key="key")
    """What `/admin/*` asks for."""

    ray_token: ObjectName = "tidemill-ray-token"  # noqa: S105 - a name, no secret
    """Secret whose value `auth_token` Ray's processes show each other, and the dashboard asks for."""

    hugging_face_token: SecretRef | None = None
    """For models that need one."""

    environment: dict[EnvironmentName, SecretRef] = Field(default_factory=dict)
    """Environment variables of all Ray containers, by name: what other fields of the configuration name
    (`redis_password_env`, `api_key_env`). Names with RAY_, TIDEMILL_ or HF_ in front are refused."""

    image_pull: ObjectName | None = None
    """For a registry that needs one."""


class TolerationConfig(Section):
    """A taint that does not keep pods away."""

    key: LabelKey
    """Key of the taint."""

    value: LabelValue | None = None
    """Its value; None tolerates every value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    """Its effect."""


class PlacementConfig(Section):
    """On which nodes pods may run."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""

    node_affinity: dict[LabelKey, tuple[LabelValue, ...]] = Field(default_factory=dict)
    """Labels that must have one of several values, for example zones or edge sites."""

    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints that are tolerated."""

    priority_class: ObjectName | None = None
    """An existing PriorityClass; None takes the cluster's default."""


class PodConfig(PlacementConfig):
    """Pods that belong to no pool."""

    cpus: int = Field(default=2, ge=1)
    """Cores of one."""

    memory_gib: float = Field(default=8.0, gt=0)
    """Memory of one."""


class NodeConfig(PlacementConfig):
    """Pods on one type of hardware: one for every replica of a pool with that `gpu_type`."""

    memory_gib: float = Field(default=32.0, gt=0)
    """Memory of one pod, weights while they are loaded included."""

    gpu_resource: str = Field(default="nvidia.com/gpu", min_length=1)
    """The device plug-in's name of the GPU."""

    runtime_class: ObjectName | None = None
    """RuntimeClass of the pods, where the GPU runtime is not the node's default."""

    preference: int = Field(default=0, ge=-1000, le=1000)
    """Where several groups could take a replica, Ray's autoscaler begins with the highest."""


class ClaimConfig(Section):
    """A volume that is kept."""

    size_gib: int = Field(ge=1)
    """How large."""

    storage_class: ObjectName | None = None
    """None takes the cluster's default class."""

    access: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """`ReadWriteMany` is shared by all pods, `ReadWriteOnce` by those of one node."""


class StorageConfig(Section):
    """What survives a pod."""

    state: ClaimConfig = ClaimConfig(size_gib=20)
    """State folder of the head: what was learnt, plans, their logs. With `ReadWriteMany` router and cache
    pods keep theirs there too; else theirs ends with the pod."""

    weights: ClaimConfig | None = None
    """Downloaded weights. None downloads them for every pod; a claim of several nodes must be
    `ReadWriteMany`."""


class RedisConfig(Section):
    """Redis behind Ray's control store, so that the head may be lost. Only for this; the cache has its own
    setting.
    """

    address: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+:[0-9]+$")] | None = None
    """`host:port` of one that exists; None makes one in the namespace."""

    password: SecretRef = SecretRef(name="tidemill-redis", key="password")
    """Its password."""

    storage: ClaimConfig = ClaimConfig(size_gib=8)
    """Its volume, if it is made here."""


class IngressConfig(Section):
    """How clients from outside come in."""

    host: HostName | None = None
    """Name that clients use; None makes no Ingress."""

    class_name: ObjectName = "nginx"
    """IngressClass."""

    tls_secret: ObjectName | None = None
    """Secret of kind `kubernetes.io/tls` for the host; None serves plain HTTP."""

    controller_namespace: ObjectName = "ingress-nginx"
    """Where the Ingress controller runs, or the Gateway for `rayservice`; only from there may clients of
    outside reach the gateway."""

    paths: tuple[PathPrefix, ...] = ("/v1", "/tokenize", "/detokenize", "/health", "/ready", "/openapi.json")
    """What is forwarded, by prefix. Not among it: `/admin`, `/metrics`, and the status page (`/`, with
    `/status`); `["/"]` forwards everything."""

    annotations: dict[str, str] = Field(default_factory=dict)
    """Further annotations. Those that keep nginx from buffering and cutting streams are there already."""


class UpgradeConfig(Section):
    """How a RayService goes over to a new Ray cluster (`NewClusterWithIncrementalUpgrade`)."""

    gateway_class: ObjectName = "istio"
    """GatewayClass of the Gateway that KubeRay makes."""

    max_surge_percent: int = Field(default=100, ge=1, le=100)
    """How much of the new cluster may stand beside the whole old one."""

    step_percent: int = Field(default=10, ge=1, le=100)
    """Share of the requests that moves in one step."""

    interval_s: int = Field(default=30, ge=1)
    """Pause between two steps."""

    @model_validator(mode="after")
    def _steps_fit(self) -> "UpgradeConfig":
        if self.step_percent > self.max_surge_percent:
            raise ValueError(
                f"step_percent ({self.step_percent}) is above max_surge_percent ({self.max_surge_percent})"
            )
        return self


class KubernetesConfig(Section):
    """Everything that `tidemill render` needs beyond the cluster's own description."""

    namespace: DnsName = "tidemill"
    """Namespace of everything."""

    name: DnsName = "tidemill"
    """Name of the Ray cluster, and beginning of all other names."""

    workload: Literal["raycluster", "rayservice"] = "raycluster"
    """`raycluster` makes a RayCluster and a RayJob that deploys into it: changes roll within the cluster.
    `rayservice` makes a RayService: another image or pod brings up a second cluster and moves requests
    over."""

    image_repository: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._/:-]*[a-z0-9]$")] = (
        "tidemill"
    )
    """Where the images are; their names `cpu` and `gpu` and the versions of the lock are put behind it."""

    head: PodConfig = PodConfig()
    """The head: Ray's control store, directory, provisioner, learner. No replica runs there."""

    gateway: PodConfig = PodConfig(cpus=2, memory_gib=4.0)
    """Pods for router and cache replicas, one for each of `gateway.router_replicas`."""

    nodes: dict[LabelValue, NodeConfig] = Field(default_factory=dict)
    """By `gpu_type` of pools; a type that is missing has the defaults."""

    secrets: SecretsConfig = SecretsConfig()
    storage: StorageConfig = StorageConfig()

    redis: RedisConfig | None = RedisConfig()
    """None keeps Ray's control store in memory: the cluster is lost with its head."""

    ingress: IngressConfig = IngressConfig()
    upgrade: UpgradeConfig = UpgradeConfig()

    client_namespaces: tuple[ObjectName, ...] = ()
    """Namespaces whose pods may call the gateway directly."""

    monitoring_namespace: ObjectName = "monitoring"
    """Where Prometheus runs."""

    idle_timeout_s: int = Field(default=120, ge=0)
    """A worker pod without replicas goes after this time."""

    deploy_timeout_s: int = Field(default=3600, ge=60)
    """The job that deploys gives up after this time and says for what it waited; Kubernetes ends it ten
    minutes later, should it hang."""
