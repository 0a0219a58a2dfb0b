"""Manifests agree with the configuration, with each other, with the lock, and with the code they start."""

import functools
import importlib
import importlib.util
import re
import tomllib

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.config import check_config, load_config, parse_config
from cluster.entities.pool import Role
from operators.kubernetes.manifests import manifests
from operators.kubernetes.names import (
    COMPONENT_LABEL,
    CONFIG_FILE,
    POOL_LABEL,
    REDIS_PORT,
)
from operators.kubernetes.resolved import resolved
from operators.serve_applications import ApplicationArguments
from tests.k8s.folders import ROOT, built_objects, of_kind
from tests.k8s.test_schemas import of_ray, pod_templates


@functools.cache
def config_of(folder):
    return resolved(load_config(ROOT / "configs" / "kubernetes" / f"{folder}.yaml"))


@pytest.fixture
def config(folder):
    return config_of(folder)


@pytest.fixture
def cluster_spec(objects):
    (found,) = of_kind(objects, "RayCluster") or [
        {"spec": entry["spec"]["rayClusterConfig"]} for entry in of_kind(objects, "RayService")
    ]
    return found["spec"]


def templates(objects):
    """Every pod template: Ray's, the submitter's and Redis's."""
    for entry in of_ray(objects):
        yield from (template for _, template in pod_templates(entry))
    yield from (entry["spec"]["template"] for entry in of_kind(objects, "StatefulSet"))


def containers(objects):
    return [container for template in templates(objects) for container in template["spec"]["containers"]]


def groups(cluster_spec):
    return {group["groupName"]: group for group in cluster_spec["workerGroupSpecs"]}


def ports_of(container):
    return {port["name"]: port["containerPort"] for port in container.get("ports", ())}


def test_every_pool_is_a_group_of_its_size_resources_and_place(config, cluster_spec):
    found = groups(cluster_spec)
    assert set(found) == {"gateway", *config.pools}
    for name, pool in config.pools.items():
        group = found[name]
        sizes = (group["minReplicas"], group["maxReplicas"], group["replicas"])
        assert sizes == (pool.replicas.min, pool.replicas.max, pool.replicas.start)
        (container,) = group["template"]["spec"]["containers"]
        assert int(group["resources"]["CPU"]) >= pool.resources.cpus
        assert int(container["resources"]["requests"]["cpu"]) > pool.resources.cpus
        assert int(group["resources"].get("GPU", 0)) == pool.resources.gpus
        assert int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) == pool.resources.gpus
        assert ("/gpu:" in container["image"]) == (pool.resources.gpus > 0)
        node = config.kubernetes.nodes[pool.gpu_type]
        assert group["template"]["spec"].get("nodeSelector", {}) == node.node_selector
        assert group["template"]["metadata"]["labels"]["tidemill/gpu-type"] == pool.gpu_type


def test_replicas_fit_into_their_own_group_and_no_other(config, cluster_spec):
    selectors = {
        **{name: pool.resources.node_labels for name, pool in config.pools.items()},
        "gateway": config.gateway.node_labels,
    }
    assert config.semantic_cache.node_labels == config.gateway.node_labels
    for name, selector in selectors.items():
        fitting = [
            group["groupName"]
            for group in cluster_spec["workerGroupSpecs"]
            if selector.items() <= group["labels"].items()
        ]
        assert fitting == [name]
    head = cluster_spec["headGroupSpec"]
    assert head["resources"] == {"CPU": "0"}
    assert POOL_LABEL not in head["labels"]


def test_labels_of_ray_nodes_are_labels_of_pods_too(cluster_spec):
    for group in cluster_spec["workerGroupSpecs"]:
        of_pod = group["template"]["metadata"]["labels"]
        shared = group["labels"].keys() & of_pod.keys()
        assert shared >= {COMPONENT_LABEL}
        assert all(group["labels"][key] == of_pod[key] for key in shared)


def test_images_have_the_versions_of_the_lock(objects, cluster_spec):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    locked = dict(
        re.findall(r"^([\w-]+)==([^\s\\]+)", (ROOT / "requirements/gpu.txt").read_text("utf-8"), re.MULTILINE)
    )
    tag = f"{version}-ray{locked['ray']}-vllm{locked['vllm']}"
    ours = [c["image"] for c in containers(objects) if c["name"] != "redis"]
    assert ours
    assert {name.rpartition(":")[2] for name in ours} == {tag}
    assert cluster_spec["rayVersion"] == locked["ray"]
    assert all(":" in c["image"] and not c["image"].endswith(":latest") for c in containers(objects))


def test_services_select_pods_that_have_their_ports(config, objects):
    pods = list(templates(objects))
    for service in of_kind(objects, "Service"):
        wanted = service["spec"]["selector"].items()
        (pod,) = [entry for entry in pods if wanted <= entry["metadata"]["labels"].items()]
        (container,) = pod["spec"]["containers"]
        for port in service["spec"]["ports"]:
            assert ports_of(container)[port["targetPort"]] == port["port"]
    if config.kubernetes.workload == "raycluster":
        (gateway,) = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == "tidemill-gateway"]
        assert [port["port"] for port in gateway["spec"]["ports"]] == [config.gateway.port]


def test_the_ingress_leads_to_the_gateway_and_lets_streams_be(config, objects):
    found = of_kind(objects, "Ingress")
    if config.kubernetes.ingress.host is None:
        assert not found
        return
    ((ingress,),) = (found,)
    (rule,) = ingress["spec"]["rules"]
    paths = rule["http"]["paths"]
    assert [path["path"] for path in paths] == list(config.kubernetes.ingress.paths)
    reached = [path for path in paths for closed in ("/admin", "/metrics") if closed.startswith(path["path"])]
    assert not reached, "what is the operator's stays inside unless somebody asks for it"
    (backend,) = {path["backend"]["service"]["name"]: path["backend"]["service"] for path in paths}.values()
    (service,) = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == backend["name"]]
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    annotations = ingress["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io"
    assert int(annotations[f"{prefix}/proxy-read-timeout"]) > config.gateway.request_timeout_s
    assert int(annotations[f"{prefix}/proxy-body-size"]) == config.gateway.body_bytes_max


def test_the_job_that_deploys_has_time_to_say_why_it_gave_up(objects):
    for job in of_kind(objects, "RayJob"):
        (text,) = [c["data"] for c in of_kind(objects, "ConfigMap") if "tidemill.yaml" in c["data"]]
        own_limit_s = yaml.safe_load(text["tidemill.yaml"])["local_cluster"]["start_timeout_s"]
        assert job["spec"]["activeDeadlineSeconds"] >= own_limit_s + 300


def test_network_policies_open_ports_that_pods_have_and_select_pods_that_exist(config, objects):
    pods = {t["metadata"]["labels"][COMPONENT_LABEL]: t for t in templates(objects)}
    outside = {53, 443, 6443}
    if config.kubernetes.redis is not None and config.kubernetes.redis.address:
        outside.add(int(config.kubernetes.redis.address.rpartition(":")[2]))
    used = {port for pod in pods.values() for c in pod["spec"]["containers"] for port in ports_of(c).values()}
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        for peer in [spec["podSelector"], *_pod_peers(spec)]:
            for expression in peer.get("matchExpressions", ()):
                missing = set(expression["values"]) - pods.keys() - {"submitter"}
                assert not missing, policy["metadata"]["name"]
        rules = [*spec.get("ingress", ()), *spec.get("egress", ())]
        opened = {port["port"] for rule in rules for port in rule.get("ports", ())}
        assert opened <= used | outside, policy["metadata"]["name"]
    assert "tidemill-dns" in {policy["metadata"]["name"] for policy in of_kind(objects, "NetworkPolicy")}


def _pod_peers(spec):
    for rule in [*spec.get("ingress", ()), *spec.get("egress", ())]:
        for peer in [*rule.get("from", ()), *rule.get("to", ())]:
            if "podSelector" in peer and "namespaceSelector" not in peer:
                yield peer["podSelector"]


def test_every_pod_is_restricted_in_both_directions(objects):
    policies = [entry["spec"] for entry in of_kind(objects, "NetworkPolicy")]
    for template in templates(objects):
        component = template["metadata"]["labels"][COMPONENT_LABEL]
        directions = {
            kind
            for spec in policies
            if component in spec["podSelector"]["matchExpressions"][0]["values"]
            for kind in spec["policyTypes"]
        }
        assert directions == {"Ingress", "Egress"}, component


def test_accounts_roles_and_claims_that_are_named_exist(objects):
    names = {
        kind: {e["metadata"]["name"] for e in of_kind(objects, kind)} for kind in {e["kind"] for e in objects}
    }
    for template in templates(objects):
        spec = template["spec"]
        assert spec["serviceAccountName"] in names["ServiceAccount"]
        for volume in spec.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names["PersistentVolumeClaim"]
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names["ConfigMap"]
    for binding in of_kind(objects, "RoleBinding"):
        assert binding["roleRef"]["name"] in names["Role"]
        assert {subject["name"] for subject in binding["subjects"]} <= names["ServiceAccount"]


def test_only_the_head_may_talk_to_the_api_server_and_only_for_the_autoscaler(objects, cluster_spec):
    (role,) = of_kind(objects, "Role")
    granted = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert granted == {
        *(("pods", verb) for verb in ("get", "list", "watch", "patch")),
        ("pods/resize", "patch"),
        ("rayclusters", "get"),
        ("rayclusters", "patch"),
    }
    head = cluster_spec["headGroupSpec"]["template"]["spec"]
    for template in templates(objects):
        with_token = template["spec"]["automountServiceAccountToken"]
        assert with_token == (template["spec"] == head)
    assert not [entry for entry in objects if entry["kind"].startswith("ClusterRole")]


def test_secrets_are_references_only(objects):
    assert not of_kind(objects, "Secret")
    for container in containers(objects):
        for variable in container.get("env", ()):
            if re.search(r"KEY|TOKEN|PASSWORD", variable["name"]):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}
                assert "value" not in variable


def test_nobody_is_root_and_nothing_is_privileged(objects):
    found = containers(objects)
    assert found
    for container in found:
        security = container["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] > 0
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_ray_containers_are_probed_and_have_time_to_drain(config, cluster_spec):
    everything = [("head", cluster_spec["headGroupSpec"]), *groups(cluster_spec).items()]
    for name, group in everything:
        (container,) = group["template"]["spec"]["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        variables = {v["name"]: v.get("value") for v in container["env"]}
        drain_s = float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s
        if name in config.pools:
            assert drain_s == config.pools[name].drain_timeout_s


def test_the_readiness_script_of_the_gateway_is_python(cluster_spec):
    (container,) = groups(cluster_spec)["gateway"]["template"]["spec"]["containers"]
    *_, script = container["readinessProbe"]["exec"]["command"]
    compile(script, "probe", "exec")


def test_budgets_leave_one_pod_to_be_taken_away(config, objects):
    sizes = {
        "gateway": config.gateway.router_replicas,
        **{n: p.replicas.min for n, p in config.pools.items()},
    }
    found = {
        entry["spec"]["selector"]["matchLabels"].get(POOL_LABEL, "gateway"): entry["spec"]["minAvailable"]
        for entry in of_kind(objects, "PodDisruptionBudget")
    }
    assert found == {name: size - 1 for name, size in sizes.items() if size > 1}


def test_the_job_deploys_what_was_rendered(config, objects):
    jobs = of_kind(objects, "RayJob")
    if config.kubernetes.workload == "rayservice":
        assert not jobs
        return
    (job,) = jobs
    (cluster,) = of_kind(objects, "RayCluster")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    _, dash_m, module, dash_c, file = job["spec"]["entrypoint"].split()
    assert (dash_m, module, dash_c, file) == ("-m", "operators", "-c", CONFIG_FILE)
    assert importlib.util.find_spec("operators.__main__")
    template = job["spec"]["submitterPodTemplate"]["spec"]
    (mount,) = template["containers"][0]["volumeMounts"]
    folder = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["working_dir"]
    assert mount["mountPath"] == f"{folder}/{file}"
    (config_map,) = of_kind(objects, "ConfigMap")
    assert parse_config(config_map["data"][CONFIG_FILE]) == config
    # The digest is of the configuration, so that a change is a new job.
    assert config_map["metadata"]["name"].rpartition("-")[2] == job["metadata"]["name"].rpartition("-")[2]


def test_redis_is_where_ray_looks_for_it(config, objects, cluster_spec):
    options = cluster_spec.get("gcsFaultToleranceOptions")
    if config.kubernetes.redis is None:
        assert options is None
        assert not of_kind(objects, "StatefulSet")
        return
    (redis,) = of_kind(objects, "StatefulSet")
    assert options["redisAddress"] == f"{redis['spec']['serviceName']}:{REDIS_PORT}"
    (variable,) = redis["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["valueFrom"] == options["redisPassword"]["valueFrom"]


def test_the_ray_service_names_applications_that_can_be_built():
    (service,) = of_kind(built_objects("rayservice"), "RayService")
    described = yaml.safe_load(service["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(described)
    config = resolved(load_config(ROOT / "configs" / "kubernetes" / "rayservice.yaml"))
    names = [application.name for application in schema.applications]
    assert names == [*(f"pool-{name}" for name in config.pools), "semantic-cache", "gateway"]
    for application in schema.applications:
        module, _, attribute = application.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
        assert ApplicationArguments.model_validate(application.args).config == config
        assert application.external_scaler_enabled == application.name.startswith("pool-")


def test_overlays_are_what_they_are_called():
    hetero = resolved(load_config(ROOT / "configs/kubernetes/heterogeneous.yaml"))
    kinds = {(pool.gpu_type, pool.role) for pool in hetero.pools.values()}
    assert kinds == {("H100", Role.PREFILL), ("A100", Role.DECODE), ("L4", Role.COMBINED)}
    energy = resolved(load_config(ROOT / "configs/kubernetes/energy.yaml"))
    day_s = 86_400
    assert all(energy.provisioning.power_cap_w(second) for second in range(0, day_s, 600))
    edge = resolved(load_config(ROOT / "configs/kubernetes/edge.yaml"))
    assert edge.adapters.catalogue
    assert all(pool.adapters for pool in edge.pools.values())
    (cluster,) = of_kind(built_objects("edge"), "RayCluster")
    for _, template in pod_templates(cluster):
        assert "nodeAffinity" in template["spec"]["affinity"]
    dev = resolved(load_config(ROOT / "configs/kubernetes/dev.yaml"))
    assert {pool.gpu_type for pool in dev.pools.values()} == {"cpu"}


def test_secrets_that_the_configuration_names_reach_every_ray_container(versions):
    config = load_config(ROOT / "configs/kubernetes/base.yaml").model_dump(mode="json", exclude_unset=True)
    store = {"kind": "redis", "redis_url": "redis://t.example.com", "redis_password_env": "TENANTS_PASSWORD"}
    config["tenants"] = {"enabled": True, "store": store}
    reference = {"name": "tenants-redis", "key": "password"}
    config["kubernetes"]["secrets"] = {"environment": {"TENANTS_PASSWORD": reference}}
    objects = [e for found in manifests(check_config(config), versions).values() for e in found]
    (cluster,) = of_kind(objects, "RayCluster")
    ray_containers = [template["spec"]["containers"][0] for _, template in pod_templates(cluster)]
    for container in ray_containers:
        (found,) = [entry for entry in container["env"] if entry["name"] == "TENANTS_PASSWORD"]
        assert found["valueFrom"] == {"secretKeyRef": reference}


def test_servers_of_others_can_be_reached_by_those_who_talk_to_them(versions):
    config = load_config(ROOT / "configs/kubernetes/base.yaml").model_dump(mode="json", exclude_unset=True)
    config["semantic_cache"]["semantic"] = {
        "enabled": True,
        "documents": {"kind": "redis", "redis_url": "redis://cache.example.com:6400/0"},
    }
    config["tenants"] = {"enabled": True, "store": {"kind": "redis", "redis_url": "rediss://t.example.com"}}
    config["tracing"] = {"endpoint": "http://collector.observability:4318"}
    config["kubernetes"]["redis"] = {"address": "redis.example.com:6390"}
    objects = [e for found in manifests(check_config(config), versions).values() for e in found]
    opened = {
        policy["metadata"]["name"]: policy["spec"]["egress"][0]["ports"][0]["port"]
        for policy in of_kind(objects, "NetworkPolicy")
        if policy["metadata"]["name"].startswith("tidemill-to-")
    }
    assert opened == {
        "tidemill-to-documents": 6400,
        "tidemill-to-tenants": 6379,
        "tidemill-to-tracing": 4318,
        "tidemill-to-redis": 6390,
    }
    assert not of_kind(objects, "StatefulSet")
