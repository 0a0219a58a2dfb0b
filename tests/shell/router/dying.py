"""An engine that dies in the middle of its streams."""

from typing import Any

import orjson

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp

SETTINGS: dict[str, Any] = {"prefill_tokens_per_s": 1e6, "step_base_s": 0.001, "step_per_sequence_s": 0}


class Dying:
    """A simulated engine that breaks a stream off after some bytes, as often as it is told to."""

    def __init__(self) -> None:
        self._app = SimulatedApp(SimulatedEngine(**SETTINGS), model="sim", role=Role.DECODE)
        self.bytes_left = 0
        self.deaths = 0
        self.asked: list[Any] = []
        self.parting = b""
        """What it says before it dies."""
        self.quietly = False
        """Whether it ends the response as if that was all."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sent = 0

        async def watched() -> Any:
            message = await receive()
            if message.get("body"):
                self.asked.append(orjson.loads(message["body"]))
            return message

        async def until_dead(message: Any) -> None:
            nonlocal sent
            body = message.get("body", b"")
            if self.deaths and message.get("more_body") and sent + len(body) > self.bytes_left:
                self.deaths -= 1
                part = body[: max(0, self.bytes_left - sent)]
                if self.parting:
                    whole, end, _ = part.rpartition(b"\n\n")
                    part = whole + end + self.parting
                await send({**message, "body": part, "more_body": not self.quietly})
                raise ConnectionResetError("dead")
            sent += len(body)
            await send(message)

        await self._app(scope, watched, until_dead)

    async def aclose(self) -> None:
        await self._app.aclose()
