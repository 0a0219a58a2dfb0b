"""What a request only points at is fetched from named hosts, and by default from nowhere."""

import orjson
import pytest

from cluster.config import parse_config
from cluster.entities.workload import Surface
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import parse

CONFIG = """
models: {sim: {source: simulated}}
pools: {a: {model: sim, engine: {kind: simulated}}}
"""
CLOSED = parse_config(CONFIG)
OPEN = parse_config(CONFIG + "gateway: {allowed_media_domains: [images.example.com]}\n")
METADATA = "http://169.254.169.254/latest/meta-data/"


def chat(*parts):
    return {"model": "sim", "messages": [{"role": "user", "content": list(parts)}]}


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


POINTING = [
    (
        Surface.CHAT,
        chat({"type": "text", "text": "what?"}, image(METADATA)),
        "messages[0].content[1].image_url.url",
    ),
    (Surface.CHAT, chat({"image_url": METADATA}), "messages[0].content[0].image_url"),
    (
        Surface.CHAT,
        chat({"type": "text", "text": "x", "uuid": "u", "audio_url": METADATA}),
        "messages[0].content[0].audio_url",
    ),
    (
        Surface.CHAT,
        chat({"type": "video_url", "video_url": {"url": "FILE:///etc/passwd"}}),
        "messages[0].content[0].video_url.url",
    ),
    (Surface.TOKENIZE, chat(image(METADATA)), "messages[0].content[0].image_url.url"),
    (
        Surface.RESPONSES,
        {
            "model": "sim",
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": METADATA}]}],
        },
        "input[0].content[0].image_url",
    ),
    (
        Surface.RESPONSES,
        {
            "model": "sim",
            "input": [
                {"type": "function_call_output", "output": [{"type": "input_image", "image_url": METADATA}]}
            ],
        },
        "input[0].output[0].image_url",
    ),
    (
        Surface.MESSAGES,
        {"max_tokens": 1, **chat({"type": "image", "source": {"type": "url", "url": METADATA}})},
        "messages[0].content[0].source.url",
    ),
    (
        Surface.COUNT_TOKENS,
        chat(
            {
                "type": "tool_result",
                "content": [{"type": "image", "source": {"type": "url", "url": METADATA}}],
            }
        ),
        "messages[0].content[0].content[0].source.url",
    ),
]


@pytest.mark.parametrize(("surface", "body", "param"), POINTING)
@pytest.mark.parametrize("config", [CLOSED, OPEN])
def test_a_request_that_points_elsewhere_is_refused_and_told_the_setting(surface, body, param, config):
    with pytest.raises(ApiError) as refused:
        parse(orjson.dumps(body), surface, config)
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "media_url_not_allowed", param)
    assert "gateway.allowed_media_domains" in error.message


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "DATA:image/png;base64,AAAA"])
def test_what_comes_within_the_request_is_taken(url):
    parse(orjson.dumps(chat(image(url))), Surface.CHAT, CLOSED)
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    parse(
        orjson.dumps({"max_tokens": 1, **chat({"type": "image", "source": source})}), Surface.MESSAGES, CLOSED
    )
    parse(
        orjson.dumps(chat({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
        Surface.CHAT,
        CLOSED,
    )


def test_named_hosts_are_allowed_and_what_only_looks_like_them_is_not():
    for url in ("https://images.example.com/a.png", "http://IMAGES.example.com:8080/a.png"):
        parse(orjson.dumps(chat(image(url))), Surface.CHAT, OPEN)
    for url in (
        "https://images.example.com.evil.example/a.png",
        "https://images.example.com@evil.example/a.png",
        "https://evil.example/images.example.com",
        "ftp://images.example.com/a.png",
        "//images.example.com/a.png",
        "https://[images.example.com/a.png",
        "",
    ):
        with pytest.raises(ApiError):
            parse(orjson.dumps(chat(image(url))), Surface.CHAT, OPEN)


def test_texts_and_arguments_of_tools_may_name_any_address():
    tool = {
        "type": "tool_use",
        "id": "t",
        "name": "fetch",
        "input": {"image_url": METADATA, "source": METADATA},
    }
    parse(
        orjson.dumps({"max_tokens": 1, **chat({"type": "text", "text": METADATA}, tool)}),
        Surface.MESSAGES,
        CLOSED,
    )
    parse(
        orjson.dumps({"model": "sim", "messages": [{"role": "user", "content": METADATA}]}),
        Surface.CHAT,
        CLOSED,
    )
