"""What callers are told about their keys, limits and budgets: errors and headers in OpenAI's form."""

import math
from collections.abc import Iterable

from cluster.entities.reasons import Reason
from cluster.entities.tenancy import Quota, Unit, Window
from deployments.router.tenants.lease import PLACES, Lack, Lease
from deployments.router.wire.errors import ApiError

_FULL_AFTER_S = 65
"""Seconds after which a minute's quota is whole again if nothing more is used."""
_WORDS = {
    Unit.REQUESTS: "requests",
    Unit.TOKENS: "tokens",
    Unit.USD: "US dollars",
    Unit.ENERGY: "joules",
}


def no_key(*, expired: bool = False) -> ApiError:
    """401; says nothing of what was sent."""
    message = (
        "This API key has expired or was revoked."
        if expired
        else "No valid API key. Send one as `Authorization: Bearer KEY` or `x-api-key: KEY`."
    )
    return ApiError(
        status=401,
        message=message,
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
        reason=Reason.KEY_INVALID,
    )


def model_refused(model: str, allowed: Iterable[str]) -> ApiError:
    """403."""
    return ApiError(
        status=403,
        message=f"This API key may not ask {model!r}. It may ask: {', '.join(sorted(allowed))}.",
        code="model_not_allowed",
        param="model",
        reason=Reason.MODEL_REFUSED,
    )


def store_away() -> ApiError:
    """503."""
    return ApiError(
        status=503,
        message="Limits cannot be checked at the moment; try again shortly.",
        code="limits_unavailable",
        headers={"retry-after": "1"},
        reason=Reason.LEDGER_AWAY,
    )


def refusal(lack: Lack) -> ApiError:
    """429 for a rate, 402 for a budget."""
    retry_after = str(max(1, math.ceil(lack.retry_after_s)))
    if lack.quota is None or lack.name == PLACES:
        return ApiError(
            status=429,
            message="Too many requests at a time for this API key's tenant; try again when one has ended.",
            code="rate_limit_exceeded",
            headers={"retry-after": retry_after},
            reason=Reason.CONCURRENCY_LIMITED,
        )
    limit = f"{lack.quota.limit:g} {_WORDS[lack.quota.unit]} per {lack.quota.window.value}"
    if lack.quota.is_budget:
        return ApiError(
            status=402,
            message=f"The budget of {limit} is used up.",
            code="insufficient_quota",
            headers={"retry-after": retry_after},
            reason=Reason.BUDGET_USED_UP,
        )
    return ApiError(
        status=429,
        message=f"The limit of {limit} is reached; try again in {retry_after} s.",
        code="rate_limit_exceeded",
        headers={"retry-after": retry_after},
        reason=Reason.RATE_LIMITED,
    )


def too_large(quota: Quota) -> ApiError:
    """The request alone is more than a whole window allows: waiting does not help."""
    limit = f"{quota.limit:g} {_WORDS[quota.unit]} per {quota.window.value}"
    return ApiError(
        status=402 if quota.is_budget else 429,
        message=f"The request is larger than the limit of {limit}; shorten it or lower `max_tokens`.",
        code="insufficient_quota" if quota.is_budget else "rate_limit_exceeded",
        reason=Reason.BUDGET_USED_UP if quota.is_budget else Reason.RATE_LIMITED,
    )


def headers(leases: Iterable[Lease], warn_share: float) -> dict[str, str]:
    """`x-ratelimit-*` as OpenAI names them, and a warning where a budget is nearly used."""
    told: dict[str, str] = {}
    warnings: list[str] = []
    for lease in leases:
        limit = lease.quota.limit
        if lease.quota.window is Window.MINUTE:
            kind = lease.unit.value
            remaining = min(limit, lease.available())
            told[f"x-ratelimit-limit-{kind}"] = str(int(limit))
            told[f"x-ratelimit-remaining-{kind}"] = str(int(remaining))
            told[f"x-ratelimit-reset-{kind}"] = f"{_FULL_AFTER_S if remaining < limit else 0}s"
        elif lease.available() <= (1.0 - warn_share) * limit:
            used = min(1.0, 1.0 - lease.available() / limit)
            warnings.append(f"{lease.name} {used:.3f}")
    if warnings:
        told["x-tidemill-budget-warning"] = ", ".join(warnings)
    return told
