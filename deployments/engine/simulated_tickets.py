"""KV hand-over between simulated engines, in the terms of vLLM's NIXL connector.

A prefill engine keeps the blocks of a prompt until a decode engine has pulled them or the lease ends; the
decode engine pulls over HTTP, so that a prefill replica that died meanwhile is noticed as with a real one.
"""

import asyncio
import contextlib
from collections import OrderedDict
from typing import Any

TICKET_PATH = "/simulated/tickets/"
_BLOCK_TOKENS = 16
_PULL_TIMEOUT_S = 1.0


class TicketOffice:
    """The blocks that one engine keeps for others. At its bound the oldest ticket is given up."""

    def __init__(self, *, engine_id: str, tickets_max: int, lease_s: float) -> None:
        self.engine_id = engine_id
        self._tickets_max = tickets_max
        self._lease_s = lease_s
        self._held: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def issue(
        self, request_id: str, *, tokens: int, address: tuple[str, int], now_s: float
    ) -> dict[str, Any]:
        """Keep a prompt's blocks and say how to get them (vLLM's `kv_transfer_params`)."""
        self._expire(now_s)
        if len(self._held) >= self._tickets_max:
            self._held.popitem(last=False)
        self._held[request_id] = (now_s + self._lease_s, tokens)
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self.engine_id,
            "remote_request_id": request_id,
            "remote_block_ids": [list(range(-(-tokens // _BLOCK_TOKENS)))],
            "remote_host": address[0],
            "remote_port": address[1],
            "remote_num_tokens": tokens,
            "tp_size": 1,
        }

    def redeem(self, request_id: str, *, now_s: float) -> bool:
        """Hand the blocks over, once; False if they are not there (any more)."""
        self._expire(now_s)
        return self._held.pop(request_id, None) is not None

    def tokens_held(self, now_s: float) -> int:
        """Prompt tokens whose KV cache waits to be pulled."""
        self._expire(now_s)
        return sum(tokens for _, tokens in self._held.values())

    def _expire(self, now_s: float) -> None:
        while self._held and next(iter(self._held.values()))[0] <= now_s:
            self._held.popitem(last=False)


async def pull(params: dict[str, Any], *, own: TicketOffice, now_s: float) -> bool:
    """Redeem somebody's ticket. False if that failed in any way: the prompt is then computed."""
    request_id = str(params.get("remote_request_id", ""))
    if params.get("remote_engine_id") == own.engine_id:
        return own.redeem(request_id, now_s=now_s)
    host, port = params.get("remote_host"), params.get("remote_port")
    if not isinstance(host, str) or not isinstance(port, int) or not request_id.isalnum():
        return False
    try:
        async with asyncio.timeout(_PULL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                head = f"POST {TICKET_PATH}{request_id} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, OverflowError, ValueError):
        return False
    with contextlib.suppress(IndexError):
        return status.split()[1] == b"200"
    return False
