"""KubeRay's kinds as far as we write them: the fields, types, values and required ones of `ray.io/v1`.

Written by hand after the API reference of KubeRay 1.7, so that manifests are checked strictly even where
KubeRay's own definitions are not at hand; where they are, a test compares the two. Pod templates are left to
the published schemas of Kubernetes.
"""

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "format": "int32"}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _one_of(*values):
    return {"type": "string", "enum": list(values)}


def _object(*required, **properties):
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


_SECRET_VALUE = _object(
    valueFrom=_object(secretKeyRef=_object("key", name=_TEXT | {"default": ""}, key=_TEXT))
)
_GROUP = {"rayStartParams": _TEXTS, "resources": _TEXTS, "labels": _TEXTS, "template": _ANY}
CLUSTER_SPEC = _object(
    "headGroupSpec",
    rayVersion=_TEXT,
    authOptions=_object(mode=_one_of("disabled", "token"), secretName=_TEXT),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_object(
        version=_one_of("v1", "v2"),
        upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=_COUNT,
        securityContext=_ANY,
        resources=_ANY,
    ),
    gcsFaultToleranceOptions=_object(
        backend=_one_of("redis", "rocksdb"), redisAddress=_TEXT, redisPassword=_SECRET_VALUE
    ),
    headGroupSpec=_object("template", **_GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            "groupName",
            "maxReplicas",
            "minReplicas",
            "template",
            groupName=_TEXT,
            replicas=_COUNT | {"default": 0},
            minReplicas=_COUNT | {"default": 0},
            maxReplicas=_COUNT | {"default": 2147483647},
            priority=_COUNT | {"default": 0},
            **_GROUP,
        ),
    },
)
JOB_SPEC = _object(
    clusterSelector=_TEXTS,
    submissionMode=_TEXT | {"default": "K8sJobMode"},
    runtimeEnvYAML=_TEXT,
    entrypoint=_TEXT,
    backoffLimit=_COUNT | {"default": 0},
    activeDeadlineSeconds=_COUNT,
    submitterConfig=_object(backoffLimit=_COUNT),
    submitterPodTemplate=_ANY,
)
SERVICE_SPEC = _object(
    "rayClusterConfig",
    serveConfigV2=_TEXT,
    excludeHeadPodFromServeSvc=_FLAG,
    upgradeStrategy=_object(
        type=_TEXT,
        clusterUpgradeOptions=_object(
            "gatewayClassName",
            "intervalSeconds",
            "stepSizePercent",
            gatewayClassName=_TEXT,
            intervalSeconds=_COUNT,
            maxSurgePercent=_COUNT | {"default": 100},
            stepSizePercent=_COUNT,
        ),
    ),
    rayClusterConfig=CLUSTER_SPEC,
)
SPECS = {"RayCluster": CLUSTER_SPEC, "RayJob": JOB_SPEC, "RayService": SERVICE_SPEC}


def definitions():
    """CustomResourceDefinitions with these schemas."""
    found = []
    for kind, spec in SPECS.items():
        plural = f"{kind.lower()}s"
        schema = _object(metadata=_ANY, apiVersion=_TEXT, kind=_TEXT, spec=spec)
        found.append(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.ray.io"},
                "spec": {
                    "group": "ray.io",
                    "scope": "Namespaced",
                    "names": {
                        "kind": kind,
                        "plural": plural,
                        "listKind": f"{kind}List",
                        "singular": kind.lower(),
                    },
                    "versions": [
                        {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
                    ],
                },
            }
        )
    return found
