"""The environment in which our Ray head, its workers and their clients run.

Ray and Serve read most of their settings from environment variables when they are imported. Everything that
has a fixed path or port by default is set here, so that two clusters on one machine do not meet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.config.local_cluster import LocalClusterConfig

CLUSTER_ID_VARIABLE = "TIDEMILL_CLUSTER_ID"
"""Marks every process of one cluster, which is how they are found again when it is stopped."""

HAPROXY_FOLDER = "h"
"""Within the runtime folder; short, because socket paths are."""

SYSLOG_NOWHERE = "127.0.0.1:9"
"""The discard port: HAProxy wants a log target, and its access log is nobody's business."""

SHORT_WAY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.ingress.middlewares"}
"""For clusters in which every process of Serve can import the code: who cannot does not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreePorts:
    """Ports that Ray fixes by default and nobody needs to know; chosen free at the start."""

    fallback_http: int
    fallback_grpc: int
    dashboard_agent: int


def cluster_environment(
    config: LocalClusterConfig,
    *,
    inherited: Mapping[str, str],
    cluster_id: str,
    runtime_dir: Path,
    token_path: Path,
    source_root: Path,
    ports: FreePorts,
) -> dict[str, str]:
    """The whole environment for Ray's processes and for drivers that connect to them.

    Args:
        config: the ports that are configured.
        inherited: the caller's environment; its own settings win where they do no harm.
        cluster_id: marks the processes.
        runtime_dir: short path for sockets and HAProxy's files.
        token_path: file with the token that Ray's processes show each other.
        source_root: the checkout, which workers import from.
        ports: free ports for what is not configured.
    """
    haproxy = runtime_dir / HAPROXY_FOLDER
    settings = {
        CLUSTER_ID_VARIABLE: cluster_id,
        "PYTHONPATH": str(source_root),
        # Engines and cache are reached on this machine only.
        "TIDEMILL_HOST": "127.0.0.1",
        # Ray asks for a token by default and would keep it in the user's home; ours is the cluster's own.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        # An engine runs child processes of 2.5 GB each that must not outlive their replica.
        "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if config.haproxy else "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(config.haproxy_metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(config.haproxy_stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
    }
    defaults = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        **SHORT_WAY,
        "RAY_SERVE_HAPROXY_LOG_TARGET": SYSLOG_NOWHERE,
        # Serve looks three times before it starts an ingress that has died anew; nobody is served meanwhile.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # Serve has been shut down before the head gets its SIGTERM: nothing on the node is left to drain.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_LOG_TO_DRIVER": "0",
        # Logs are bounded: 4 files of 16 MiB for each process.
        "RAY_ROTATION_MAX_BYTES": str(16 * 1024**2),
        "RAY_ROTATION_BACKUP_COUNT": "3",
        # Python processes that start together on two cores need longer than Ray's minute.
        "RAY_worker_register_timeout_seconds": "240",
    }
    kept = {name: value for name, value in inherited.items() if name not in _ELSEWHERE}
    return {**defaults, **kept, **settings}


_ELSEWHERE = frozenset(
    {"RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "RAY_NAMESPACE", "RAY_JOB_CONFIG_JSON_ENV_VAR"}
)
"""Settings that would lead our processes to another cluster."""


LOCAL_NOTICE_S = 2
"""See `gateway_environment`: the ingress is on this machine."""


def gateway_environment(request_timeout_s: float, *, notice_s: int = 5) -> dict[str, str]:
    """Serve's settings wherever it runs: how patient it is, and how soon it gives up what stands still.

    Args:
        request_timeout_s: the longest that a request may take.
        notice_s: how long every leaving replica goes on taking requests because the ingress may not have
            heard. Serve leaves 30 s to balancers outside the cluster, which ours never talk to.
    """
    patience_s = int(request_timeout_s) + 60
    return {
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(notice_s),
        # HAProxy must not cut a stream that the router still feeds.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(patience_s),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(patience_s),
        # A reload leaves streams with the old process, which is killed after this.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(patience_s),
        # Every request that is sent to a router that stands still is lost: it is found out in 6 s, not in 15.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
        # A request whose router ends before a byte of its answer goes to another one, whatever its method:
        # what is asked twice here costs work at most (docs/reliability.md). Bounded, because a request that
        # no router survives must not end all of them.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        # What fails three health checks hears no request to end either; Serve would wait for its streams.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    }
