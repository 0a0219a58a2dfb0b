"""What the documents say exists: files, links, commands, configuration fields, addresses."""

import functools
import re
import shlex
import subprocess
from importlib import import_module

import orjson
import pytest
import typer
from typer.testing import CliRunner

from cluster.config import parse_config
from cluster.config.root import TidemillConfig
from cluster.config.routing import DisaggregationConfig
from cluster.entities.workload import Surface
from cluster.policy.token_estimate import TokenRatio, estimate_tokens
from deployments.router.pages.adapters import VLLM_PATHS
from operators.cli.app import app
from operators.kubernetes.images import locked_versions

FOLDERS = (
    "cluster",
    "deployments",
    "operators",
    "load_tests",
    "tests",
    "docs",
    "configs",
    "k8s",
    "requirements",
)
WRITTEN_LATER = ("load_tests/results/",)
SECTIONS = tuple(TidemillConfig.model_fields)
HOSTS = {"127.0.0.1", "keepachangelog.com", "ray-project.github.io"}
OWN_ADDRESSES = {surface.value for surface in Surface} | {"/", "/health", "/ready", "/metrics", "/v1/models"}
OWN_ADDRESSES |= set(VLLM_PATHS)


def without_blocks(text):
    return re.sub(r"^```.*?^```|^    [^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text):
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def command_lines(text):
    """Lines of indented blocks, continued ones joined."""
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in re.findall(r"^    (\S.*)$", joined, flags=re.MULTILINE)]


def fenced(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def anchor(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_lead_to_files_and_headings(document):
    path, text = document
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.is_file():
            broken.append(target)
        elif fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), flags=re.MULTILINE)
            if fragment not in {anchor(heading) for heading in headings}:
                broken.append(target)
    assert not broken


def test_every_record_of_a_decision_is_in_the_index(root):
    index = (root / "docs" / "adr" / "README.md").read_text("utf-8")
    records = [path.name for path in (root / "docs" / "adr").glob("0*.md")]
    assert records
    assert not [name for name in records if f"]({name})" not in index]


def test_files_that_are_named_exist(document, root):
    _, text = document
    named = {
        span
        for span in spans(text)
        if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", span) and not span.startswith(WRITTEN_LATER)
    }
    assert not {name for name in named if not (root / name).exists()}


def test_packages_that_are_named_exist(document, root):
    _, text = document
    named = {
        s for s in spans(text) if re.fullmatch(r"(cluster|deployments|operators|load_tests)\.[a-z_.]+", s)
    }
    places = {name: root / name.replace(".", "/") for name in named}
    assert not {
        n for n, place in places.items() if not place.is_dir() and not place.with_suffix(".py").is_file()
    }


@functools.cache
def configuration_schema():
    return TidemillConfig.model_json_schema()


def field_exists(dotted):
    schema = configuration_schema()
    nodes = [schema]
    for part in dotted.split("."):
        nodes = [child for node in nodes for child in _below(node, part, schema["$defs"])]
    return bool(nodes)


def _below(node, part, definitions):
    found = list(node.get("patternProperties", {}).values()) if part in ("*", "NAME") else []
    found += [node["properties"][part]] if part in node.get("properties", {}) else []
    for child in found:
        options = [child, *child.get("oneOf", []), *child.get("anyOf", [])]
        yield from (definitions[o["$ref"].rsplit("/", 1)[1]] if "$ref" in o else o for o in options)


def test_configuration_fields_that_are_named_exist(document):
    _, text = document
    pattern = rf"({'|'.join(SECTIONS)})(\.([a-z_]+|\*|NAME))+"
    named = {span.partition(":")[0] for span in spans(text) if re.fullmatch(pattern, span.partition(":")[0])}
    assert not {name for name in named if not field_exists(name)}


def test_the_check_of_fields_notices_a_wrong_one():
    assert field_exists("pools.*.engine.kv_lease_s")
    assert not field_exists("pools.*.engine.kv_leese_s")
    assert not field_exists("gateway.workers")


def test_example_configurations_are_valid(document):
    path, text = document
    for block in fenced(text, "yaml"):
        if "models:" in block:
            assert parse_config(block, origin=path.name).pools


def test_the_documents_show_configurations(root):
    assert sum("models:" in b for b in fenced((root / "README.md").read_text("utf-8"), "yaml")) == 2


def commands_of(text):
    return [shlex.split(line) for line in command_lines(text) if line.startswith("tidemill ")]


def parse(arguments):
    """Let the command line understand arguments without running anything."""
    command = typer.main.get_command(app).commands[arguments[0]]
    return command.make_context(arguments[0], list(arguments[1:]))


def test_commands_that_are_shown_are_understood(document):
    _, text = document
    for _, *arguments in commands_of(text):
        parse(arguments)


def test_commands_in_the_text_exist(document):
    _, text = document
    known = set(typer.main.get_command(app).commands)
    named = {m.group(1) for span in spans(text) if (m := re.match(r"tidemill ([a-z]+)\b(?! ready)", span))}
    assert named <= known


def test_every_command_is_in_the_readme_and_explains_itself(root):
    readme = (root / "README.md").read_text("utf-8")
    for name in typer.main.get_command(app).commands:
        assert f"| `tidemill {name}" in readme
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_a_wrong_option_would_be_noticed():
    with pytest.raises(Exception, match=r"[Nn]o such option"):
        parse(["up", "--configuration", "x"])


def test_make_targets_that_are_named_exist(document, root):
    _, text = document
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    shown = [*spans(text), *command_lines(text)]
    named = {m.group(1) for line in shown if (m := re.match(r"make ([a-z]+)\b", line))}
    assert named <= targets


def test_load_tests_that_are_shown_are_understood(root):
    lines = command_lines((root / "docs" / "benchmarks.md").read_text("utf-8"))
    shown = [shlex.split(line) for line in lines if " -m load_tests." in line]
    assert {arguments[2] for arguments in shown} >= {"load_tests.closed_loop", "load_tests.open_loop"}
    for _, _, module, *arguments in shown:
        found = import_module(module)
        if arguments:
            assert found._options(arguments)


def test_the_first_request_of_the_readme_is_long_enough_to_be_disaggregated(root):
    readme = (root / "README.md").read_text("utf-8")
    shown = re.search(r"^    (curl .*?\| grep x-tidemill)$", readme, flags=re.MULTILINE | re.DOTALL)
    script = 'curl() { printf %s "${@: -1}"; }; grep() { cat; }; ' + shown.group(1)
    body = orjson.loads(subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout)
    prompt = body["messages"][0]["content"]
    assert body["temperature"] == 0, "or the second answer would not come from the cache"
    assert estimate_tokens(TokenRatio(), len(prompt)) >= DisaggregationConfig().uncached_tokens_min


def test_every_surface_is_in_the_readme(root):
    readme = (root / "README.md").read_text("utf-8")
    for surface in Surface:
        assert f"`POST {surface.value}`" in readme


def test_the_replay_example_runs(root, tmp_path, monkeypatch):
    (block,) = fenced((root / "docs" / "operations.md").read_text("utf-8"), "python")
    (tmp_path / "configs").symlink_to(root / "configs")
    (tmp_path / "router.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "operations.md", "exec"), {})


def test_documents_hold_no_addresses_and_paths_of_somebody_s_machine(document):
    _, text = document
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert {host for host in hosts if not host.isupper()} <= HOSTS, "names to replace are in capitals"
    absolute = {span for span in spans(text) if re.match(r"/\w", span)}
    ours = tuple(OWN_ADDRESSES - {"/"})
    assert not {
        s
        for s in absolute
        if not s.startswith(
            (*ours, "/v1", "/admin", "/status", "/tmp/tidemill", "/openapi.json", "/sys/class/powercap")
        )
    }


def test_every_error_that_a_client_may_get_is_explained(root):
    table = (root / "docs" / "operations.md").read_text("utf-8")
    table = table.partition("## What an error means")[2].partition("When starting:")[0]
    texts = [path.read_text("utf-8") for path in (root / "deployments" / "router").rglob("*.py")]
    texts.append((root / "deployments" / "semantic_cache" / "embeddings.py").read_text("utf-8"))
    codes = {code for text in texts for code in re.findall(r'\bcode="([a-z_]+)"', text)}
    assert {"model_not_found", "tokens_not_supported"} <= codes
    assert not {code for code in codes if f"`{code}`" not in table}


def test_the_tag_of_the_images_is_found_as_the_page_says(root):
    page = (root / "docs" / "operations.md").read_text("utf-8")
    (line,) = re.findall(r"^ +(TAG=.*)$", page, flags=re.MULTILINE)
    told = subprocess.run(
        ["sh", "-c", f"{line}; echo $TAG"], cwd=root, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == locked_versions(root).tag
