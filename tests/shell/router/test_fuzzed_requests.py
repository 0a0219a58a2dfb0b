"""Made-up requests through the whole router: they get an answer, or are told what is wrong with them."""

import random
from typing import Any

import orjson
import pytest

ANY: tuple[Any, ...] = (None, True, -1, 0, 1, 7, 1e9, 1.5, "", "x", "é" * 9, [], {}, [None], ["a"], {"a": []})
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3},
    "/v1/completions": {"prompt": "hello", "max_tokens": 3},
    "/v1/responses": {"input": "hello", "max_output_tokens": 3},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hello"}]},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [256, 257]},
    "/v1/feedback": {"decision_id": "d-1", "reward": 1},
}
FIELDS = (
    *(
        "model",
        "messages",
        "prompt",
        "input",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stream",
        "stop",
        "user",
    ),
    *(
        "tools",
        "tool_choice",
        "logprobs",
        "stream_options",
        "response_format",
        "temperature",
        "seed",
        "min_tokens",
    ),
    *(
        "return_token_ids",
        "kv_transfer_params",
        "tokens",
        "metadata",
        "priority",
        "best_of",
        "echo",
        "system",
    ),
)


def _changed(value: Any, chance: random.Random) -> Any:
    """A value with something in it replaced, however deep."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        return {**value, name: _changed(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        return [_changed(value[0], chance), *value[1:]]
    return chance.choice(ANY)


def _request(chance: random.Random) -> tuple[str, bytes]:
    path = chance.choice(list(PLAIN))
    body = {"model": "sim", **PLAIN[path]}
    for _ in range(chance.randint(0, 3)):
        body[chance.choice(FIELDS)] = chance.choice(ANY)
    if chance.random() < 0.4:
        body = _changed(body, chance)
    raw = orjson.dumps(body)
    if chance.random() < 0.1:
        raw = raw[: chance.randrange(len(raw) + 1)]
    return path, raw


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_is_asked_breaks_the_router(cluster, seed):
    chance = random.Random(seed)
    for number in range(100):
        path, raw = _request(chance)
        answer = await cluster.post(path, raw)
        what = f"seed {seed}, request {number}: {path} {raw!r} -> {answer.status} {answer.content[:300]!r}"
        assert answer.status in (200, 400, 404, 413), what
        if answer.status != 200:
            error = orjson.loads(answer.content)["error"]
            assert error["message"], what
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert b"[DONE]" in answer.content or b"event: " in answer.content, what
        else:
            assert isinstance(orjson.loads(answer.content), dict), what
    await cluster.assert_idle()


def _made(schema: dict[str, Any], chance: random.Random) -> Any:
    """Something that a schema of the document allows."""
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kinds = schema.get("type", "null")
    kind = chance.choice(kinds) if isinstance(kinds, list) else kinds
    if kind == "object":
        names = [
            n
            for n in schema.get("properties", {})
            if n in schema.get("required", ()) or chance.random() < 0.4
        ]
        return {name: _made(schema["properties"][name], chance) for name in names}
    if kind == "array":
        item = schema.get("items", {"type": "string"})
        return [_made(item, chance) for _ in range(max(schema.get("minItems", 0), chance.randint(0, 2)))]
    plain = {"string": "tide", "integer": 3, "number": 0.5, "boolean": chance.random() < 0.5, "null": None}
    return plain[kind]


@pytest.mark.parametrize("seed", range(2))
async def test_what_the_gateway_says_of_itself_is_what_it_does(cluster, seed):
    chance = random.Random(seed)
    document = (await cluster.get("/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert set(operation["responses"]) >= {"200"}
            if method == "get":
                assert (await cluster.get(path)).status == 200, path
                assert (await cluster.post(path, {})).status == 405, path
                continue
            assert (await cluster.get(path)).status == 405, path
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            for _ in range(12):
                body = {**_made(schema, chance), "model": "sim"}
                answer = await cluster.post(path, body)
                told = set(operation["responses"])
                assert str(answer.status) in told, f"seed {seed}: {path} {body} -> {answer.content[:300]!r}"
    await cluster.assert_idle()
