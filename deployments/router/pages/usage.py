"""`GET /admin/usage`: what tenants have used, by day and month."""

from typing import Any
from urllib.parse import parse_qs

from deployments.router.core import RouterCore
from deployments.router.wire.errors import ApiError, overloaded
from deployments.tenants.ledger import LedgerAwayError


async def usage(core: RouterCore, query: bytes) -> dict[str, Any]:
    """The report, of one tenant (`?tenant=NAME`) or all.

    Raises:
        ApiError: 404 if nobody is counted or the tenant is unknown, 503 if the ledger is away.
    """
    if core.tenants is None:
        message = "Nobody is counted here: tenants.enabled is off."
        raise ApiError(status=404, message=message, code="tenants_disabled")
    wanted = parse_qs(query.decode("latin-1")).get("tenant", [None])[-1]
    known = core.config.tenants.tenants
    if wanted is not None and wanted not in known:
        message = f"There is no tenant {wanted!r}. Tenants: {', '.join(known)}."
        raise ApiError(status=404, message=message, code="tenant_not_found")
    try:
        rows = await core.tenants.usage(wanted)
    except LedgerAwayError as error:
        raise overloaded(f"{error}.", status=503, retry_after_s=1) from error
    limits = {
        name: [
            {"window": quota.window.value, "unit": quota.unit.value, "limit": quota.limit}
            for quota in tenant.quotas
        ]
        for name, tenant in known.items()
        if wanted in (None, name)
    }
    return {"usage": rows, "limits": limits}
