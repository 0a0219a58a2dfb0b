"""What the gateway serves, as an OpenAPI document (`GET /openapi.json`).

It describes what the router itself understands of a request; every other field goes to the engine as it is,
which is why no schema here is closed.
"""

from collections.abc import Mapping
from typing import Any

from cluster.entities.workload import Surface
from deployments.router.core import RouterCore
from deployments.router.pages import feedback
from deployments.router.wire.responder import Responder

PATH = "/openapi.json"
Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": _TEXT, "content": {"type": ["string", "array", "null"]}},
    },
}
_SAMPLING: dict[str, Schema] = {
    "stream": {"type": "boolean", "description": "Tokens as server-sent events."},
    "temperature": {"type": "number", "minimum": 0},
    "user": {"type": "string", "description": "Names a conversation, as `x-tidemill-session` does."},
}
_CHOICES: dict[str, Schema] = {
    **_SAMPLING,
    "max_tokens": _COUNT,
    "n": {"type": "integer", "minimum": 1},
    "stop": {"type": ["string", "array", "null"]},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
}
_TOKEN_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_BODIES: Mapping[Surface, tuple[str, list[str], dict[str, Schema]]] = {
    Surface.CHAT: (
        "Chat completion, as OpenAI's",
        ["messages"],
        {"messages": _MESSAGES, "max_completion_tokens": _COUNT, "tools": {"type": "array"}, **_CHOICES},
    ),
    Surface.COMPLETIONS: (
        "Text completion, as OpenAI's",
        ["prompt"],
        {"prompt": {"type": ["string", "array"], "minItems": 1}, **_CHOICES},
    ),
    Surface.RESPONSES: (
        "Response, as OpenAI's",
        ["input"],
        {
            "input": {"type": ["string", "array"], "minLength": 1, "minItems": 1},
            "max_output_tokens": _COUNT,
            **_SAMPLING,
        },
    ),
    Surface.MESSAGES: (
        "Message, as Anthropic's",
        ["messages", "max_tokens"],
        {"messages": _MESSAGES, "max_tokens": _COUNT, **_SAMPLING},
    ),
    Surface.COUNT_TOKENS: ("Tokens of a message, as Anthropic's", ["messages"], {"messages": _MESSAGES}),
    Surface.EMBEDDINGS: (
        "Embeddings of the sentence encoder",
        ["input"],
        {"input": {"type": ["string", "array"]}},
    ),
    Surface.TOKENIZE: ("Tokens of a prompt, as vLLM's", [], {"prompt": _TEXT, "messages": _MESSAGES}),
    Surface.DETOKENIZE: ("Text of tokens, as vLLM's", ["tokens"], {"tokens": _TOKEN_IDS}),
}
_ERRORS = {
    "400": "The request is wrong; the message says where.",
    "401": "No key, or one that is not known, where keys are asked for.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "415": "The body is not said to be `application/json`.",
    "429": "The queue is full, or a limit is reached.",
    "503": "Nobody can answer now.",
}
_GETS = {
    "/health": "Whether the process is alive",
    "/ready": "Whether a request for every model would be answered",
    "/metrics": "Prometheus",
    "/v1/models": "Models, aliases, and names that leave the model open",
    PATH: "This document",
}


def document(models: list[str]) -> dict[str, Any]:
    """The document of a gateway with these models and names."""
    paths: dict[str, Any] = {surface.value: {"post": _post(surface, models)} for surface in Surface}
    paths[feedback.PATH] = {
        "post": _operation(
            "How good an answer was, 0 to 1",
            ["decision_id", "reward"],
            {
                "decision_id": _TEXT,
                "reward": {"type": "number", "minimum": 0, "maximum": 1},
                "source": {"enum": ["caller", "judge"]},
            },
        )
    }
    for path, summary in _GETS.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": "OK"}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidemill", "version": "1", "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error()},
        },
        "security": [{}, {"key": []}],
    }


def _post(surface: Surface, models: list[str]) -> dict[str, Any]:
    summary, required, properties = _BODIES[surface]
    model: Schema = {"type": "string"}
    if surface is not Surface.EMBEDDINGS:
        model = {"type": "string", "examples": models}
    return _operation(summary, required, {"model": model, **properties})


def _operation(summary: str, required: list[str], properties: dict[str, Schema]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    told = {status: {"description": words, "content": failed} for status, words in _ERRORS.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "The answer; with `stream: true` as server-sent events."},
            **told,
        },
    }


def _error() -> Schema:
    return {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "object", "required": ["message", "type"], "properties": {"message": _TEXT}}
        },
    }


async def answer(core: RouterCore, responder: Responder) -> None:
    """Send the document."""
    await responder.json(200, document(list(core.config.client_names)))
