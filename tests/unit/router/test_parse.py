"""What the router refuses before it routes, what it lets through, and what it reads of it."""

from typing import Any

import orjson
import pytest

from cluster.entities.workload import Surface
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import parse, session_id

CHAT, COMPLETIONS = Surface.CHAT, Surface.COMPLETIONS
RESPONSES, MESSAGES, COUNT = Surface.RESPONSES, Surface.MESSAGES, Surface.COUNT_TOKENS
TURNS = [{"role": "user", "content": "hello"}]


def chat(**fields):
    return {"model": "sim", "messages": TURNS, **fields}


def text(**fields):
    return {"model": "sim", "prompt": "hello", **fields}


def nested(depth):
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


# surface, body, param, code
NOT_JSON = [
    (CHAT, b"", None, "invalid_request"),
    (CHAT, b" ", None, "invalid_json"),
    (CHAT, b"{", None, "invalid_json"),
    (CHAT, b"}", None, "invalid_json"),
    (CHAT, b"{}{}", None, "invalid_json"),
    (CHAT, b"{'model': 'sim'}", None, "invalid_json"),
    (CHAT, b'{"model": "sim",}', None, "invalid_json"),
    (CHAT, b'{"model": undefined}', None, "invalid_json"),
    (CHAT, b'{"temperature": NaN}', None, "invalid_json"),
    (CHAT, b'{"temperature": 1e999}', None, "invalid_json"),
    (CHAT, b'{"model": "sim', None, "invalid_json"),
    (CHAT, b"\xff\xfe", None, "invalid_json"),
    (CHAT, b'{"model": "\xff"}', None, "invalid_json"),
    (CHAT, b'{"model": "\n"}', None, "invalid_json"),
    (CHAT, b"model=sim", None, "invalid_json"),
    (CHAT, b"\0" * 9, None, "invalid_json"),
    (CHAT, b"null", None, "invalid_request"),
    (CHAT, b"true", None, "invalid_request"),
    (CHAT, b"7", None, "invalid_request"),
    (CHAT, b'"sim"', None, "invalid_request"),
    (CHAT, b"[]", None, "invalid_request"),
    (CHAT, b"[{}]", None, "invalid_request"),
    (CHAT, b"[" * 5000, None, "invalid_json"),
    (CHAT, b'{"a":' * 5000, None, "invalid_json"),
    (CHAT, b'{"\\"[":' + b"[" * 5000, None, "invalid_json"),
    (CHAT, chat(extra=nested(17)), None, "invalid_request"),
]
WRONG_MODEL = [
    (CHAT, chat(model="nobody"), "model", "model_not_found"),
    (CHAT, chat(model=""), "model", "model_not_found"),
    (CHAT, chat(model="SIM"), "model", "model_not_found"),
    (CHAT, chat(model="sim "), "model", "model_not_found"),
    (CHAT, chat(model=7), "model", "invalid_request"),
    (CHAT, chat(model=["sim"]), "model", "invalid_request"),
    (CHAT, chat(model={"id": "sim"}), "model", "invalid_request"),
    (CHAT, chat(model=True), "model", "invalid_request"),
    (Surface.TOKENIZE, {"model": "nobody"}, "model", "model_not_found"),
]
WRONG_FIELDS = [
    (CHAT, chat(stream="true"), "stream", "invalid_request"),
    (CHAT, chat(stream=1), "stream", "invalid_request"),
    (CHAT, chat(stream=[]), "stream", "invalid_request"),
    (CHAT, chat(max_tokens="5"), "max_tokens", "invalid_request"),
    (CHAT, chat(max_tokens=5.0), "max_tokens", "invalid_request"),
    (CHAT, chat(max_tokens=True), "max_tokens", "invalid_request"),
    (CHAT, chat(max_tokens=-1), "max_tokens", "invalid_request"),
    (CHAT, chat(max_tokens=[1]), "max_tokens", "invalid_request"),
    (CHAT, chat(max_completion_tokens=-1), "max_completion_tokens", "invalid_request"),
    (CHAT, chat(max_completion_tokens={}), "max_completion_tokens", "invalid_request"),
    (CHAT, chat(n=1025), "n", "invalid_request"),
    (COMPLETIONS, text(prompt=["a"] * 513, n=2), "prompt", "invalid_request"),
    (COMPLETIONS, text(prompt=[[1]] * 100_000), "prompt", "invalid_request"),
    (CHAT, chat(kv_transfer_params={"do_remote_decode": True}), "kv_transfer_params", "invalid_request"),
    (RESPONSES, {"input": "a", "ec_transfer_params": {}}, "ec_transfer_params", "invalid_request"),
    (CHAT, chat(vllm_xargs={"kv_transfer_params": "x"}), "kv_transfer_params", "invalid_request"),
    (RESPONSES, {"input": "a", "max_output_tokens": -1}, "max_output_tokens", "invalid_request"),
    (RESPONSES, {"input": "a", "max_output_tokens": "9"}, "max_output_tokens", "invalid_request"),
    (CHAT, chat(n=0), "n", "invalid_request"),
    (CHAT, chat(n=-3), "n", "invalid_request"),
    (CHAT, chat(n="2"), "n", "invalid_request"),
    (CHAT, chat(n=1.5), "n", "invalid_request"),
    (CHAT, chat(n=False), "n", "invalid_request"),
    (CHAT, chat(stream_options=True), "stream_options", "invalid_request"),
    (CHAT, chat(stream_options=[1]), "stream_options", "invalid_request"),
    (CHAT, chat(stream_options="usage"), "stream_options", "invalid_request"),
]
WRONG_PROMPTS = [
    (CHAT, {}, "messages", "invalid_request"),
    (CHAT, {"messages": None}, "messages", "invalid_request"),
    (CHAT, {"messages": []}, "messages", "invalid_request"),
    (CHAT, {"messages": {}}, "messages", "invalid_request"),
    (CHAT, {"messages": "hello"}, "messages", "invalid_request"),
    (CHAT, {"messages": ["hello"]}, "messages[0]", "invalid_request"),
    (CHAT, {"messages": [None]}, "messages[0]", "invalid_request"),
    (CHAT, {"messages": [*TURNS, 3]}, "messages[1]", "invalid_request"),
    (CHAT, {"messages": [{}]}, "messages[0].role", "invalid_request"),
    (CHAT, {"messages": [{"content": "hello"}]}, "messages[0].role", "invalid_request"),
    (CHAT, {"messages": [{"role": None}]}, "messages[0].role", "invalid_request"),
    (CHAT, {"messages": [*TURNS, {"role": 7}]}, "messages[1].role", "invalid_request"),
    (MESSAGES, {"max_tokens": 5}, "messages", "invalid_request"),
    (COUNT, {"messages": []}, "messages", "invalid_request"),
    (RESPONSES, {}, "input", "invalid_request"),
    (RESPONSES, {"input": ""}, "input", "invalid_request"),
    (RESPONSES, {"input": []}, "input", "invalid_request"),
    (RESPONSES, {"input": 7}, "input", "invalid_request"),
    (RESPONSES, {"input": {"role": "user"}}, "input", "invalid_request"),
    (COMPLETIONS, {}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": None}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": 7}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": {}}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": []}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": ["a", 1]}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [1, "a"]}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [1.5]}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [True]}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [None]}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [[1], 2]}, "prompt", "invalid_request"),
    (COMPLETIONS, {"prompt": [["a"]]}, "prompt", "invalid_request"),
]
MALFORMED = [*NOT_JSON, *WRONG_MODEL, *WRONG_FIELDS, *WRONG_PROMPTS]


def test_the_table_is_long_enough():
    assert len(MALFORMED) >= 60


@pytest.mark.parametrize(("surface", "body", "param", "code"), MALFORMED)
def test_a_malformed_body_is_refused_in_words(parsed, surface, body, param, code):
    with pytest.raises(ApiError) as caught:
        parsed(surface, body)
    error = caught.value
    assert (error.param, error.code) == (param, code)
    assert error.status == (404 if code == "model_not_found" else 400)
    assert error.message.endswith(".")
    shaped = error.body(surface)["error"]
    assert shaped["type"] in {"invalid_request_error", "not_found_error"}
    assert shaped["message"] == error.message


def test_an_unknown_model_is_told_what_there_is(parsed):
    with pytest.raises(ApiError) as caught:
        parsed(CHAT, chat(model="nobody"))
    for name in ("'nobody'", "sim", "other", "auto", "gpt-x"):
        assert name in caught.value.message


ODD = [
    (CHAT, chat(unheard_of={"a": [1, 2.5, None, "é"]}, top_k=-1, stop=None)),
    (CHAT, chat(stream=None, max_tokens=None, n=None, stream_options=None)),
    (CHAT, chat(kv_transfer_params=None, vllm_xargs={"session_id": "s"})),
    (CHAT, chat(messages=[{"role": "user"}])),
    (CHAT, chat(messages=[{"role": "user", "content": None}])),
    (CHAT, chat(messages=[{"role": "user", "content": 7}])),
    (CHAT, chat(messages=[{"role": "whoever", "content": [{"type": "image_url"}, 7, None]}])),
    (CHAT, chat(messages=[{"role": "tool", "content": "\u0000\U0001f30a"}])),
    (CHAT, chat(extra=nested(14))),
    (CHAT, chat(messages=[{"role": "user", "content": "[{" * 5000}])),
    (CHAT, chat(messages=[{"role": "user", "content": '\\"[[[' * 5000}])),
    (CHAT, chat(extra=[[] for _ in range(500)])),
    (CHAT, chat(max_tokens=0)),
    (CHAT, chat(max_tokens=2**40)),
    (CHAT, chat(max_tokens=3, max_completion_tokens=4)),
    (COMPLETIONS, text(prompt="")),
    (COMPLETIONS, text(prompt=[""])),
    (COMPLETIONS, text(prompt=["a"] * 512, n=2)),
    (COMPLETIONS, text(prompt=[1] * 5000)),
    (COMPLETIONS, text(prompt=[0])),
    (COMPLETIONS, text(prompt=[[1, 2], [3]])),
    (COMPLETIONS, text(prompt=[2**40, -1])),
    (RESPONSES, {"model": "sim", "input": [{"role": "user", "content": [{"text": "a"}]}, 7]}),
    (MESSAGES, chat(system=[{"type": "text", "text": "be brief"}], max_tokens=5)),
    (Surface.TOKENIZE, {"model": "sim", "anything": 1}),
    (Surface.DETOKENIZE, {"model": "sim", "tokens": "nonsense"}),
]


@pytest.mark.parametrize(("surface", "body"), ODD)
def test_odd_but_valid_bodies_pass_untouched(parsed, surface, body):
    assert parsed(surface, body).body == body


def test_a_lone_surrogate_is_refused_here_as_the_engine_would(parsed):
    with pytest.raises(ApiError) as caught:
        parsed(CHAT, b'{"messages":[{"role":"user","content":"\\ud800"}]}')
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_aliases_and_no_model_at_all_become_the_served_name(parsed):
    assert parsed(CHAT, chat(model="auto")).body["model"] == "sim"
    assert parsed(CHAT, chat(model="other")).model == "other"
    assert parsed(CHAT, {"messages": TURNS}).model == "sim"
    assert parsed(CHAT, chat(model=None)).body["model"] == "sim"


@pytest.mark.parametrize(
    ("surface", "body", "prompt", "tokens"),
    [
        (COMPLETIONS, text(prompt="mill"), b"mill", None),
        (COMPLETIONS, text(prompt=["a", "b"]), b"a\nb", None),
        (COMPLETIONS, text(prompt=[1, 258]), b"\1\0\0\0\2\1\0\0", 2),
        (COMPLETIONS, text(prompt=[[1], [2, 3]]), b"\1\0\0\0\2\0\0\0\3\0\0\0", 3),
        (CHAT, chat(), b"user\nhello", None),
        (
            CHAT,
            chat(
                messages=[{"role": "user", "content": [{"text": "a"}, {"type": "image_url"}, {"text": "b"}]}]
            ),
            b"user\na\nb",
            None,
        ),
        (MESSAGES, chat(system="brief"), b"brief\nuser\nhello", None),
        (RESPONSES, {"input": "go", "instructions": "brief"}, b"brief\ngo", None),
        (RESPONSES, {"input": [{"content": "a"}, {"content": [{"text": "b"}]}]}, b"a\nb", None),
        (Surface.TOKENIZE, {"prompt": "mill"}, b"", None),
    ],
)
def test_the_prompt_is_its_text_in_order(parsed, surface, body, prompt, tokens):
    request = parsed(surface, body)
    assert (request.prompt, request.prompt_tokens) == (prompt, tokens)


def test_tools_and_tool_calls_are_part_of_the_prompt(parsed):
    with_tools = parsed(CHAT, chat(tools=[{"type": "function", "function": {"name": "tide"}}]))
    assert b'"tide"' in with_tools.prompt
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": {"name": "ebb"}}]}
    assert b'"ebb"' in parsed(CHAT, chat(messages=[call])).prompt


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        (chat(), None),
        (chat(max_tokens=7), 7),
        (chat(max_completion_tokens=8), 8),
        (chat(max_tokens=7, max_completion_tokens=8), 8),
        (chat(max_tokens=0), 0),
    ],
)
def test_the_bound_on_output(parsed, body, bound):
    assert parsed(CHAT, body).max_output_tokens == bound


@pytest.mark.parametrize(
    ("options", "wanted"),
    [(None, False), ({}, False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
)
def test_whether_usage_was_asked_for(parsed, options, wanted):
    assert parsed(CHAT, chat(stream=True, stream_options=options)).wants_usage is wanted


def test_a_conversation_is_named_by_the_header_or_else_by_the_user(config):
    def named(body, header=""):
        return parse(orjson.dumps(chat(**body)), CHAT, config, session=header).session

    assert named({"user": "ada"}) == "ada"
    assert named({"user": "ada"}, header="talk-7") == "talk-7"
    assert (named({}), named({"user": 7})) == ("", "")


def test_a_sessions_id_tells_neither_its_name_nor_the_same_of_two_tenants():
    one, other = session_id("t1", "ada"), session_id("t2", "ada")
    assert one != other
    assert "ada" not in one
    assert session_id("t1", "ada") == one
    assert session_id("t1", "") == ""


@pytest.mark.parametrize("ids", [[0, 1, 2**31, 2**32 - 1], [2**32, 2**40 + 5, 2**63 - 1], [2**64 - 1, 7]])
def test_ids_stand_for_themselves_with_four_bytes_each(parsed, ids):
    found = parsed(COMPLETIONS, text(prompt=ids))
    assert found.prompt == b"".join((token & 0xFFFFFFFF).to_bytes(4, "little") for token in ids)
    assert found.prompt_tokens == len(ids)
