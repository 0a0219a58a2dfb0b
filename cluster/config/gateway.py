"""The HTTP ingress and the router replicas behind it."""

from ipaddress import ip_address

from pydantic import Field

from cluster.config.base import HostName, LabelKey, LabelSelector, Section
from cluster.config.continuation import ContinuationConfig
from cluster.config.cors import CorsConfig


class GatewayConfig(Section):
    """Where clients connect and how much is let in."""

    host: str = "127.0.0.1"
    """Address the ingress listens on."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Port the ingress listens on."""

    router_replicas: int = Field(default=1, ge=1, le=64)
    """Router processes behind the ingress."""

    router_cpus: float = Field(default=0.1, ge=0)
    """Cores that Ray sets aside for one router replica."""

    node_labels: dict[LabelKey, LabelSelector] = Field(default_factory=dict)
    """Labels that a router's node must have; on Kubernetes `tidemill render` sets them."""

    max_concurrent_requests: int = Field(default=256, ge=1, le=100_000)
    """Requests that one router replica works on at a time."""

    max_queued_requests: int = Field(default=512, ge=0, le=100_000)
    """Requests that may wait in one router replica for a free engine; one more gets 429."""

    queue_timeout_s: float = Field(default=120.0, gt=0)
    """A request that has waited this long for an engine gets 503."""

    shed_ttft_s: float | None = Field(default=None, gt=0)
    """A request whose first token is predicted to take longer than this on the best replica gets 429 with
    Retry-After instead of an answer that comes too late; None lets every request wait."""

    request_timeout_s: float = Field(default=600.0, gt=0)
    """From arrival to the last byte; then the engine's work is aborted."""

    connect_timeout_s: float = Field(default=2.0, gt=0)
    """Opening a connection to an engine replica."""

    max_attempts: int = Field(default=4, ge=1, le=20)
    """How many replicas a request is tried on before its first byte has been sent."""

    continuation: ContinuationConfig = ContinuationConfig()
    cors: CorsConfig = CorsConfig()

    body_bytes_max: int = Field(default=8 * 1024 * 1024, ge=1024)
    """A larger request body gets 413."""

    header_bytes_max: int = Field(default=32 * 1024, ge=1024)
    """A request whose headers are larger in all gets 431."""

    body_timeout_s: float = Field(default=60.0, gt=0)
    """A client that has not sent its whole request by then gets 408."""

    stalled_client_timeout_s: float = Field(default=60.0, gt=0)
    """A client that takes nothing of its answer for so long is left, and the engine's work is aborted."""

    json_depth_max: int = Field(default=64, ge=4, le=1000)
    """A request nested deeper gets 400."""

    answers_max: int = Field(default=1024, ge=1)
    """A request that asks for more answers, `n` to each of its prompts, gets 400: it would count as one and
    keep an engine busy for hours."""

    allowed_media_domains: tuple[HostName, ...] = ()
    """Hosts from which engines may fetch images, audio and video that a request only points at, without
    redirects. Others get 400, and without any host media come within the request (`data:` URLs): an engine
    stands inside the network, and a client could have it fetch whatever is reachable from there."""

    allow_without_keys: bool = False
    """Listen on an address other than loopback although `tenants.enabled` is off: something in front, such as
    an ingress or a network policy, decides who may call."""

    admin_key_env: str = "TIDEMILL_ADMIN_KEY"
    """Environment variable that holds the key for `/admin/*`; `tidemill up` makes a key if it is unset."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
