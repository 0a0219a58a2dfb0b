"""Plain HTTP to the engine replicas.

One connection pool for all of them. What goes wrong is sorted here into two kinds: the client's fault, whose
answer is passed on, and the replica's, after which another replica may be asked.
"""

from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from cluster.config.gateway import GatewayConfig
from deployments.messages import ADAPTER_REFUSED
from deployments.router.wire.errors import ApiError

_RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
_ERROR_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 256 * 1024 * 1024
"""An engine's unary answer; the longest context and all log-probabilities fit many times."""


class ReplicaError(Exception):
    """A replica did not answer; another may."""

    def __init__(
        self,
        message: str,
        *,
        unreachable: bool,
        overloaded: bool = False,
        refusal: ApiError | None = None,
    ) -> None:
        """Say what happened.

        Args:
            message: for the decision log, and for the client when nobody else answers either.
            unreachable: the replica itself is at fault and is put aside, rather than this request on it.
            overloaded: it has too much to do and said so.
            refusal: what its pager of adapters answers; for the client if nobody else has the adapter.
        """
        super().__init__(message)
        self.unreachable = unreachable
        self.overloaded = overloaded
        self.refusal = refusal


class Upstream:
    """The connection pool."""

    def __init__(self, config: GatewayConfig) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=config.connect_timeout_s, sock_read=config.request_timeout_s
        )
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool; must run in the event loop that will use it."""
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=60, ttl_dns_cache=60)
        self._session = aiohttp.ClientSession(
            connector=connector,
            # What an engine asks one client to remember is nothing to the next one.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            read_bufsize=2**18,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open pool."""
        if self._session is None:
            raise RuntimeError("the connection pool is not open")
        return self._session

    async def open(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send a request and return the response when its status line is there; the caller closes it.

        Raises:
            ReplicaError: no connection, a broken one, or a status that says try another.
        """
        try:
            response = await self.session.post(url, data=body, headers=headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplicaError(f"{type(error).__name__}: {error}", unreachable=True) from error
        if ADAPTER_REFUSED in response.headers:
            refusal = await self._refusal(response)
            raise ReplicaError(refusal.message, unreachable=False, refusal=refusal)
        if response.status in _RETRYABLE_STATUSES:
            try:
                text = (await response.content.read(_ERROR_BYTES_MAX)).decode("utf-8", "replace")
            except (aiohttp.ClientError, OSError, TimeoutError):
                text = ""
            finally:
                response.close()
            message = f"status {response.status}: {text[:500]}"
            busy = response.status in (429, 503)
            raise ReplicaError(message, unreachable=response.status == 503, overloaded=busy)
        return response

    async def _refusal(self, response: aiohttp.ClientResponse) -> ApiError:
        """What a replica's pager answers in place of its engine; says nothing of the replica itself."""
        try:
            error = orjson.loads(await response.content.read(_ERROR_BYTES_MAX))["error"]
            message = str(error["message"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            message = "the adapter cannot be had"
        finally:
            response.close()
        passed_on = {"retry-after": response.headers.get("retry-after", "")}
        return ApiError(
            status=response.status,
            message=message,
            code=response.headers[ADAPTER_REFUSED],
            param="model",
            headers={name: value for name, value in passed_on.items() if value},
        )

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body.

        Raises:
            ReplicaError: the connection broke, or the body is beyond all bounds.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async for part in response.content.iter_any():
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    raise ReplicaError("the engine's answer is too large", unreachable=False)
                parts.append(part)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplicaError(f"{type(error).__name__}: {error}", unreachable=True) from error
        return b"".join(parts)

    async def model_length(self, url: str) -> int:
        """The longest sequence that an engine takes, prompt and answer together.

        Raises:
            ReplicaError: it does not say.
        """
        try:
            async with self.session.get(f"{url}/v1/models") as response:
                cards = orjson.loads(await response.read())["data"]
            return max(int(card["max_model_len"]) for card in cards if card.get("max_model_len"))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplicaError(f"{type(error).__name__}: {error}", unreachable=True) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReplicaError(f"its models cannot be read: {error}", unreachable=False) from error

    async def json(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """Send JSON and return the status with the parsed answer.

        Raises:
            ReplicaError: as `open` and `read`, or the answer is not JSON.
        """
        response = await self.open(url, orjson.dumps(body), headers)
        try:
            content = await self.read(response)
            return response.status, orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ReplicaError(f"answer is not JSON: {error}", unreachable=False) from error
        finally:
            response.close()
