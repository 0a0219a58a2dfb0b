"""Trace files as they come: gzipped or not, from other systems, with other columns, damaged."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from cluster.simulation.traffic.open import open_trace
from cluster.simulation.traffic.trace import TraceError

AZURE = [
    ("2023-11-16 18:15:46.6805900", "374", "44"),
    ("2023-11-16 18:15:50.9951690", "396", "109"),
    ("2023-11-16 18:15:51.0000000", "879", "55"),
]
HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE = [
    {"timestamp": 0, "input_length": 900, "output_length": 20, "hash_ids": [0, 1]},
    {"timestamp": 3000, "input_length": 1200, "output_length": 30, "hash_ids": [0, 1, 2]},
]


def azure(order=(0, 1, 2), *, rows=AZURE, separator=",", quote="", end="\n"):
    lines = [separator.join(f"{quote}{row[place]}{quote}" for place in order) for row in (HEADER, *rows)]
    return end.join([*lines, ""])


def mooncake(rows=MOONCAKE, end="\n"):
    return end.join([*map(json.dumps, rows), ""])


@pytest.fixture
def opened(tmp_path):
    def write(content, name="trace", **asked):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return open_trace((path,), **asked)

    return write


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        azure(),
        azure(end="\r\n"),
        azure((2, 0, 1)),
        azure(quote='"'),
        azure(separator=", "),
        azure(rows=[(at, f"{prompt}.0", answer) for at, prompt, answer in AZURE]),
        azure(rows=[(f"{at}+00:00", prompt, answer) for at, prompt, answer in AZURE]),
        azure(rows=[(f"{at.replace(' ', 'T')}Z", prompt, answer) for at, prompt, answer in AZURE]),
        "\ufeff" + azure(),
        "\n\r\n" + azure(),
    ],
)
def test_azure_s_columns_are_found_however_they_are_written(opened, text, zipped):
    trace = opened(gzip.compress(text.encode()) if zipped else text)
    assert trace.prompt_tokens.tolist() == [374, 396, 879]
    assert trace.output_tokens.tolist() == [44, 109, 55]
    assert trace.arrival_s == pytest.approx([0.0, 4.314579, 4.31941])


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        mooncake(),
        mooncake(end="\r\n"),
        mooncake([dict(reversed(row.items())) | {"type": "text"} for row in MOONCAKE]),
        mooncake([{"chat_id": "x" * 5000, **row} for row in MOONCAKE]),
        "\ufeff" + mooncake(),
        "\n\n" + mooncake() + "\n",
    ],
)
def test_mooncake_s_keys_are_found_however_they_are_written(opened, text, zipped):
    trace = opened(gzip.compress(text.encode()) if zipped else text)
    assert trace.prompt_tokens.tolist() == [900, 1200]
    assert trace.blocks == ((0, 1), (0, 1, 2))
    assert trace.arrival_s.tolist() == [0.0, 3.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(azure().encode())[:-12], "ended before|truncated"),
        (gzip.compress(azure().encode())[:30] + b"\x00" * 60, "trace: "),
        (bytes(range(128, 256)), "not UTF-8"),
        (azure().encode() + b"\xff\n", "not UTF-8"),
        (azure().encode("utf-16"), "not UTF-8"),
        (b"A,B\n1,2\n", "not a trace; understood are"),
        (b'{"a": 1}\n', "not a trace; understood are"),
        (",".join(HEADER).encode(), "no request in it"),
        (b"TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n", "no column GeneratedTokens"),
        (azure(rows=[*AZURE, ("2023-11-16 18:15:51", "", "5")]), "trace:5: ContextTokens: '' is no number"),
        (azure() + "2023-11-16 18:15:51\n", "trace:5: ContextTokens: None is no number"),
        (azure(rows=[("yesterday", "1", "1")]), "trace:2: TIMESTAMP"),
        (azure(rows=[(AZURE[0][0], "1.5", "1")]), "trace:2: ContextTokens: '1.5' is no number"),
        (mooncake([*MOONCAKE, {"timestamp": 4, "input_length": 3}]), "trace:3: no key 'output_length'"),
        (mooncake([*MOONCAKE, {**MOONCAKE[0], "timestamp": None}]), "trace:3: timestamp: None is no number"),
        (mooncake([*MOONCAKE, {**MOONCAKE[0], "input_length": "x"}]), "trace:3: input_length: 'x' is no"),
        (mooncake([*MOONCAKE, {**MOONCAKE[0], "hash_ids": "abc"}]), "trace:3: hash_ids"),
        (mooncake([*MOONCAKE, {**MOONCAKE[0], "hash_ids": 7}]), "trace:3: hash_ids"),
        (mooncake() + "5\n", "trace:3: expected an object"),
        (mooncake() + "{\n", "trace:3: "),
        (mooncake() + '{"timestamp": NaN}\n', "trace:3: "),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_line(opened, content, said):
    with pytest.raises(TraceError, match="trace") as raised:
        opened(content)
    assert any(part in str(raised.value) for part in said.split("|")), str(raised.value)


def test_one_request_is_a_trace(opened):
    for text in (azure(rows=AZURE[:1]), mooncake(MOONCAKE[:1])):
        assert len(opened(text)) == len(opened(text, rate_per_s=2.0)) == 1


def test_requests_of_one_instant_have_no_rate_that_could_be_changed(opened):
    text = mooncake([{**row, "timestamp": 5} for row in MOONCAKE])
    assert opened(text).arrival_s.tolist() == [0.0, 0.0]
    with pytest.raises(TraceError, match="at one instant"):
        opened(text, rate_per_s=2.0)


def test_a_missing_file_a_folder_and_one_that_may_not_be_read_are_named(tmp_path):
    for path, said in (
        (tmp_path / "nothing", "no such file"),
        (tmp_path, "no chunk-N-trace.csv"),
    ):
        with pytest.raises(TraceError, match=said):
            open_trace((path,))


def archive(**files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("_json", ".json").replace("_csv", ".csv").replace("_", "-"))
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return packed.getvalue()


WINDOWS = b"0,5.0,1.0,Gamma\n600,2.0,1.2,Gamma\n"
LENGTHS = json.dumps({"0": {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{10: 1.0}"}}).encode()


def test_servegen_survives_a_mark_at_the_beginning_and_line_ends_of_elsewhere(opened):
    wanted = opened(archive(chunk_0_trace_csv=WINDOWS, chunk_0_dataset_json=LENGTHS), "a.tar.gz")
    other = archive(
        chunk_0_trace_csv=b"\xef\xbb\xbf" + WINDOWS.replace(b"\n", b"\r\n") + b"\r\n",
        chunk_0_dataset_json=b"\xef\xbb\xbf" + LENGTHS,
    )
    found = opened(other, "b.tar.gz")
    assert np.array_equal(found.arrival_s, wanted.arrival_s)
    assert np.array_equal(found.prompt_tokens, wanted.prompt_tokens)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive(chunk_0_trace_csv=WINDOWS), "no chunk-N-dataset.json"),
        (archive(chunk_0_dataset_json=LENGTHS), "no chunk-N-trace.csv"),
        (archive(chunk_0_trace_csv=b"time,rate\n", chunk_0_dataset_json=LENGTHS), "trace.csv:1"),
        (archive(chunk_0_trace_csv=b"\xff\xfe\n", chunk_0_dataset_json=LENGTHS), "chunk-0-trace.csv"),
        (archive(chunk_0_trace_csv=WINDOWS, chunk_0_dataset_json=b"[]"), "chunk-0-dataset.json"),
        (archive(chunk_0_trace_csv=WINDOWS, chunk_0_dataset_json=b'{"0": 5}'), "chunk-0-dataset.json"),
        (b"no archive", "a.tar.gz"),
        (b"", "a.tar.gz"),
        (archive(chunk_0_trace_csv=WINDOWS * 999, chunk_0_dataset_json=LENGTHS)[:200], "a.tar.gz"),
    ],
)
def test_what_is_wrong_in_an_archive_is_said(opened, content, said):
    with pytest.raises(TraceError, match=r"a\.tar\.gz") as raised:
        opened(content, "a.tar.gz")
    assert said in str(raised.value)
