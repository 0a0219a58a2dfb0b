"""Adapters come from every kind of source, and bad ones are refused in words."""

import asyncio
import io
import json
import os
import shutil
import tarfile
import zipfile

import pytest
from aiohttp import web

from cluster.config.adapters import AdaptersConfig, S3Config
from cluster.entities.adapters import AdapterCard
from deployments.adapter_pager.files import AdapterFilesError, adapter_sha256, read_adapter
from deployments.adapter_pager.folders import AdapterFolders
from deployments.adapter_pager.sources import AdapterSourceError, AdapterSources
from tests.adapter_files import write_adapter


@pytest.fixture
def origin(tmp_path):
    return write_adapter(tmp_path / "origin", 3)


@pytest.fixture
async def server(origin):
    """The adapter as folder, archives and S3 object; what was asked for is remembered."""
    asked = []
    archives = {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(origin, "deep/inside")
        evil = tarfile.TarInfo("../../evil.txt")
        archive.addfile(evil, io.BytesIO())
    archives["adapter.tar.gz"] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in origin.iterdir():
            archive.write(file, file.name)
    archives["adapter.zip"] = buffer.getvalue()
    archives["broken.zip"] = buffer.getvalue()[:300]
    archives["half.tar.gz"] = archives["adapter.tar.gz"][:200]

    async def answer(request):
        asked.append(request)
        name = request.path.rsplit("/", 1)[1]
        if name in archives:
            return web.Response(body=archives[name])
        if (origin / name).is_file():
            return web.FileResponse(origin / name)
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}", asked
    await runner.cleanup()


def sources(make=None, **fields):
    return AdapterSources(AdaptersConfig(**fields), make=make)


async def fetched(tmp_path, source, **fields):
    folder = tmp_path / "into"
    folder.mkdir()
    await sources(**fields).fetch(source, folder)
    return folder


@pytest.mark.parametrize("path", ["/x/adapter.tar.gz", "/x/adapter.zip", "/folder/"])
async def test_over_http(tmp_path, origin, server, path):
    folder = await fetched(tmp_path, server[0] + path)
    assert adapter_sha256(folder) == adapter_sha256(origin)
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


async def test_from_a_local_folder(tmp_path, origin):
    assert adapter_sha256(await fetched(tmp_path, str(origin))) == adapter_sha256(origin)


async def test_from_a_recipe(tmp_path, origin):
    folder = tmp_path / "into"
    folder.mkdir()
    made = []
    await sources(make=lambda name: made.append(name) or origin).fetch("recipe:marker-03", folder)
    assert made == ["marker-03"]
    assert read_adapter(folder).rank == 8


async def test_from_an_s3_store_with_and_without_keys(tmp_path, origin, server, monkeypatch):
    url, asked = server
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    s3 = S3Config(endpoint_url=url, region="eu-central-1")
    folder = await fetched(tmp_path, "s3://bucket/some/adapter", s3=s3)
    assert adapter_sha256(folder) == adapter_sha256(origin)
    assert asked[0].path == "/bucket/some/adapter/adapter_config.json"
    assert "authorization" not in asked[0].headers
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await sources(s3=s3).fetch("s3://bucket/some/adapter", folder)
    signed = asked[-1].headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=me/")
    assert "/eu-central-1/s3/aws4_request,SignedHeaders=host;x-amz-content-sha256;x-amz-date," in signed


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/x/none.zip", "status 404"),
        ("/x/broken.zip", "damaged archive"),
        ("/x/half.tar.gz", "damaged archive"),
        ("/x/adapter_config.json", "neither .zip nor .tar.gz"),
    ],
)
async def test_what_is_wrong_is_said(tmp_path, server, path, why):
    with pytest.raises(AdapterSourceError, match=why):
        await fetched(tmp_path, server[0] + path)


@pytest.mark.parametrize("path", ["/x/adapter.zip", "/folder/"])
async def test_what_is_too_large_is_not_fetched(tmp_path, server, path):
    with pytest.raises(AdapterSourceError, match="files_bytes_max"):
        await fetched(tmp_path, server[0] + path, files_bytes_max=1000)


async def test_a_source_that_hangs_is_given_up(tmp_path):
    async def hang(_request):
        await asyncio.sleep(1)  # the server waits for it when it is closed

    app = web.Application()
    app.router.add_get("/{path:.*}", hang)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(AdapterSourceError, match=r"not there within 0\.2 s"):
            await fetched(tmp_path, f"http://127.0.0.1:{runner.addresses[0][1]}/a/", fetch_timeout_s=0.2)
    finally:
        await runner.cleanup()


async def test_an_id_that_the_hub_cannot_give_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(AdapterSourceError, match="no folder of that name, and the Hugging Face hub"):
        await fetched(tmp_path, "owner/adapter-that-is-nowhere")


def test_files_of_another_kind_are_refused(origin):
    config = origin / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "IA3", "r": 8}))
    with pytest.raises(AdapterFilesError, match="only LoRA"):
        read_adapter(origin)
    config.write_text("{")
    with pytest.raises(AdapterFilesError, match="not the configuration"):
        read_adapter(origin)
    config.unlink()
    with pytest.raises(AdapterFilesError, match=r"adapter_config\.json is missing"):
        read_adapter(origin)


def test_the_hash_is_what_sha256sum_prints(origin):
    command = f"cd {origin} && sha256sum adapter_config.json adapter_model.safetensors | sha256sum"
    with os.popen(command) as pipe:
        assert pipe.read().split()[0] == adapter_sha256(origin)


async def test_other_files_than_expected_are_refused(tmp_path, origin):
    folders = AdapterFolders(tmp_path / "disk", fetch=sources().fetch, bytes_max=10**9)
    card = AdapterCard(name="a", base_model="m", source=str(origin), sha256="0" * 64)
    with pytest.raises(AdapterFilesError, match="expected was 0000"):
        await folders.stage(card)
    assert not [path for path in (tmp_path / "disk").iterdir() if path.is_dir()]


async def test_the_disk_keeps_the_latest_and_what_is_held(tmp_path):
    cards = [
        AdapterCard(name=f"a{k}", base_model="m", source=str(write_adapter(tmp_path / f"a{k}", k)))
        for k in range(4)
    ]
    folders = AdapterFolders(tmp_path / "disk", fetch=sources().fetch, bytes_max=9000)  # two of 4 kB
    staged = [await folders.stage(card) for card in cards[:2]]
    folders.let_go(staged[1].facts.sha256)
    staged += [await folders.stage(card) for card in cards[2:]]
    kept = [found.path.is_dir() for found in staged]
    assert kept == [True, False, True, True]  # held, let go, held, held
    shutil.rmtree(tmp_path / "a0")
    sha256 = staged[0].facts.sha256
    again = await folders.stage(AdapterCard(name="a0", base_model="m", source="/gone", sha256=sha256))
    assert not again.fetched
