"""Signatures are the ones in Amazon's documentation (Signature Version 4, "GET Object")."""

from datetime import UTC, datetime

from deployments.adapter_pager.s3_signature import S3Keys, object_url, signed_headers


def test_amazon_s_own_example():
    keys = S3Keys(
        access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    )
    headers = signed_headers(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        keys,
        region="us-east-1",
        now=datetime(2013, 5, 24, tzinfo=UTC),
        headers={"range": "bytes=0-9"},
    )
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_a_session_token_is_signed_too():
    keys = S3Keys(access_key_id="a", secret_access_key="b", session_token="c")
    headers = signed_headers("https://h/k", keys, region="r", now=datetime(2026, 1, 1, tzinfo=UTC))
    assert headers["x-amz-security-token"] == "c"
    assert "x-amz-security-token" in headers["authorization"]


def test_keys_are_taken_whole_or_not_at_all():
    assert S3Keys.from_environment({"AWS_ACCESS_KEY_ID": "a"}) is None
    assert S3Keys.from_environment({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}) is not None


def test_addresses():
    assert object_url("b", "x y/z", endpoint_url=None, region="r") == "https://b.s3.r.amazonaws.com/x%20y/z"
    assert object_url("b", "z", endpoint_url="http://minio:9000/", region="r") == "http://minio:9000/b/z"
