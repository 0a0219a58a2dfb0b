"""The Ray cluster that `tidemill up` starts on this machine."""

from pydantic import Field, model_validator

from cluster.config.base import LabelKey, LabelValue, Name, Section

_HANDED_OUT = (range(10002, 20000), range(30000, 31001), range(40000, 41001))
"""Ports that Ray gives its workers and Serve its replicas."""


class SimulatedNodesConfig(Section):
    """Nodes of one kind that Ray's autoscaler adds and removes: processes on this machine, for trying out."""

    cpus: int = Field(default=1, ge=0)
    """Cores that each offers; they are this machine's, counted again."""

    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources that each offers; pools ask for them in `resources.custom`."""

    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that each has; pools ask for them in `resources.node_labels`."""

    max: int = Field(default=1, ge=0, le=16)
    """Never more of them than this; 0 makes a kind that is sold out."""


class LocalClusterConfig(Section):
    """Ports are fixed so that leftovers of an earlier run are noticed, and free ones are easy to choose."""

    cpus: int | None = Field(default=None, ge=1)
    """Cores that Ray plans with; None means one more than the machine has, so that router and cache take none
    from the engines."""

    memory_bytes_min: int = Field(default=6 * 1024**3, ge=0)
    """Free memory without which `tidemill up` does not start: two CPU engines and Ray take about 5 GiB."""

    object_store_bytes: int = Field(default=128 * 1024**2, ge=80 * 1024**2)
    """Ray's object store; tokens never pass through it, so it is small."""

    gcs_port: int = Field(default=6389, ge=1024, le=65535)
    """Port of Ray's control store. Not Ray's own default, 6379, where many machines run Redis."""

    dashboard_port: int = Field(default=8265, ge=1024, le=65535)
    """Port of Ray's dashboard and of Serve's REST interface."""

    client_port: int = Field(default=10001, ge=1024, le=65535)
    """Port of Ray's client server."""

    haproxy_metrics_port: int = Field(default=9101, ge=1024, le=65535)
    """Metrics of the HAProxy that is Serve's ingress."""

    haproxy_stats_port: int = Field(default=8404, ge=1024, le=65535)
    """Statistics page of the same."""

    haproxy: bool = True
    """Serve's HAProxy ingress; without it Serve's Python proxy answers, ten times slower."""

    simulated_nodes: dict[Name, SimulatedNodesConfig] = Field(default_factory=dict)
    """Kinds of nodes that join when replicas need them and leave when they are idle, as in a cloud; each is a
    few processes and about 300 MB of memory. Empty keeps everything on the head."""

    simulated_nodes_idle_s: float = Field(default=15.0, gt=0)
    """A simulated node leaves after being idle for so long."""

    start_timeout_s: float = Field(default=900.0, gt=0)
    """`tidemill up` gives up when the first answer has not come by then."""

    @model_validator(mode="after")
    def _ports_apart(self) -> "LocalClusterConfig":
        taken: dict[int, str] = {}
        for name in (
            "gcs_port",
            "dashboard_port",
            "client_port",
            "haproxy_metrics_port",
            "haproxy_stats_port",
        ):
            port = getattr(self, name)
            if any(port in ports for ports in _HANDED_OUT):
                raise ValueError(
                    f"{name} ({port}) lies among the ports that Ray hands out itself; choose one outside "
                    "10002-19999, 30000-31000 and 40000-41000"
                )
            if port in taken:
                raise ValueError(f"{name} is the same port as {taken[port]} ({port}); choose another")
            taken[port] = name
        return self
