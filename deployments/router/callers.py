"""Callers at the door: who they are, what they may ask, when their patience ends."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from cluster.entities.tenancy import Usage
from deployments.router.core import RouterCore
from deployments.router.tenants.gate import Size
from deployments.router.tenants.keys import Caller
from deployments.router.wire.errors import bad_request
from deployments.router.wire.requests import ParsedRequest, tenant_of
from deployments.router.wire.responder import Responder

DEADLINE_HEADER = "x-tidemill-deadline-s"
_FREE = Size(prompt_tokens=0, output_tokens=0, flexible=False, usd_per_token=(0.0, 0.0))
"""What generates nothing counts as a request, and takes a place while it lasts."""


def identify(core: RouterCore, headers: Mapping[str, str]) -> Caller | None:
    """Who calls; None where nobody is asked for a key.

    Raises:
        ApiError: 401.
    """
    return None if core.tenants is None else core.tenants.identify(headers)


def tenant_name(caller: Caller | None, headers: Mapping[str, str]) -> str:
    """The partition of a caller: its tenant, or one for each key where keys are not checked."""
    return tenant_of(headers) if caller is None else caller.tenant


def check_model(core: RouterCore, caller: Caller | None, model: str) -> None:
    """Refuse a model that the caller may not ask.

    Raises:
        ApiError: 403.
    """
    if caller is not None and core.tenants is not None:
        core.tenants.check_model(caller, model)


def with_deadline(request: ParsedRequest, headers: Mapping[str, str], arrived_at_s: float) -> ParsedRequest:
    """The request with the instant by which its client wants the first token.

    Raises:
        ApiError: 400 if the header is no number of seconds.
    """
    text = headers.get(DEADLINE_HEADER)
    if text is None:
        return request
    try:
        patience_s = float(text)
    except ValueError:
        patience_s = 0.0
    if not 0.0 < patience_s < float("inf"):
        raise bad_request(f"`{DEADLINE_HEADER}` must be a positive number of seconds.", param=DEADLINE_HEADER)
    return replace(request, deadline_at_s=arrived_at_s + patience_s)


@asynccontextmanager
async def admitted(core: RouterCore, caller: Caller | None, responder: Responder) -> AsyncIterator[None]:
    """Let a request in that generates nothing, and settle it when it is over.

    Raises:
        ApiError: 402, 429 or 503.
    """
    tenants = core.tenants
    if caller is None or tenants is None:
        yield
        return
    admission = await tenants.admit(caller, _FREE, responder.headers)
    try:
        yield
    finally:
        if admission is not None:
            tenants.settle(admission, Usage(requests=1))
