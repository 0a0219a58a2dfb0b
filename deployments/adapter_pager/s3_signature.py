"""Signs GET requests to S3 and its likes: AWS Signature Version 4, as Amazon documents it.

Only what fetching an adapter's files takes, in place of a dependency of a hundred megabytes.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Keys:
    """Who asks."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "S3Keys | None":
        """The keys in AWS's own variables; None if there are none."""
        identity, secret = env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", "")
        if not identity or not secret:
            return None
        token = env.get("AWS_SESSION_TOKEN", "")
        return cls(access_key_id=identity, secret_access_key=secret, session_token=token)


def object_url(bucket: str, key: str, *, endpoint_url: str | None, region: str) -> str:
    """Of an object: by path on an endpoint of one's own, by host name at Amazon."""
    path = quote(key, safe="/-_.~")
    if endpoint_url is None:
        return f"https://{bucket}.s3.{region}.amazonaws.com/{path}"
    return f"{endpoint_url.rstrip('/')}/{bucket}/{path}"


def signed_headers(
    url: str, keys: S3Keys, *, region: str, now: datetime, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The headers to send with a GET of an object.

    Args:
        url: as of `object_url`, without a query.
        keys: who asks.
        region: where the bucket is.
        now: in UTC; the store refuses what is minutes off.
        headers: others that are to be signed.
    """
    parts = urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    sent = {
        "host": parts.netloc,
        "x-amz-content-sha256": _EMPTY_SHA256,
        "x-amz-date": stamp,
        **(headers or {}),
    }
    if keys.session_token:
        sent["x-amz-security-token"] = keys.session_token
    names = ";".join(sorted(sent))
    lines = [f"{name}:{sent[name].strip()}\n" for name in sorted(sent)]
    request = f"GET\n{parts.path}\n\n{''.join(lines)}\n{names}\n{_EMPTY_SHA256}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hexdigest()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )
    return sent
