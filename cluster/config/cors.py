"""Which web pages may talk to the gateway from a browser."""

from typing import Annotated

from pydantic import Field, StringConstraints

from cluster.config.base import Section

Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[A-Za-z0-9.\-_\[\]:]+)$", to_lower=True)]
"""Scheme, host and port as browsers send them, without a path; or `*`."""


class CorsConfig(Section):
    """Cross-origin requests (CORS). Off: browsers let no page but the gateway's own read its answers."""

    origins: tuple[Origin, ...] = ()
    """Pages that may ask the surfaces below `/v1/`, for example `https://YOUR-PAGE`; `*` is all of
    them. Cookies and other credentials of the browser are never allowed: keys travel in headers that the
    page sets itself. `/admin/` and `/metrics` stay closed to pages."""

    max_age_s: int = Field(default=600, ge=0, le=86_400)
    """How long browsers remember what they were allowed."""
