"""Brings an adapter's files from where its source says into a folder.

Nothing is unpacked but the two files of an adapter, by name and up to a size, whatever an archive holds.
"""

import asyncio
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

import aiohttp

from cluster.config.adapters import AdaptersConfig
from deployments.adapter_pager.files import ADAPTER_FILES
from deployments.adapter_pager.s3_signature import S3Keys, object_url, signed_headers

RECIPE_PREFIX = "recipe:"
_S3_PREFIX = "s3://"
_CHUNK_BYTES = 1 << 20
_TAR_ENDINGS = (".tar.gz", ".tgz", ".tar")


class AdapterSourceError(Exception):
    """The source does not give the files; the message says why."""


class AdapterSources:
    """Fetches from every kind of source."""

    def __init__(self, config: AdaptersConfig, *, make: Callable[[str], Path]) -> None:
        """Open nothing yet.

        Args:
            config: limits and the S3 store.
            make: gives the folder of a recipe's adapter, trained if need be; called in a thread.
        """
        self._config = config
        self._make = make

    async def fetch(self, source: str, folder: Path) -> None:
        """Put an adapter's two files into an existing folder.

        Raises:
            AdapterSourceError: they cannot be had.
        """
        try:
            async with asyncio.timeout(self._config.fetch_timeout_s):
                await self._fetch(source, folder)
        except TimeoutError as error:
            raise AdapterSourceError(
                f"{source}: not there within {self._config.fetch_timeout_s} s"
            ) from error
        except (OSError, aiohttp.ClientError) as error:
            raise AdapterSourceError(f"{source}: {error or type(error).__name__}") from error

    async def _fetch(self, source: str, folder: Path) -> None:
        if source.startswith(RECIPE_PREFIX):
            made = await asyncio.to_thread(self._make, source.removeprefix(RECIPE_PREFIX))
            await asyncio.to_thread(self._copy, made, folder)
        elif source.startswith(_S3_PREFIX):
            await self._from_s3(source, folder)
        elif source.startswith(("http://", "https://")):
            await self._from_http(source, folder)
        else:
            await asyncio.to_thread(self._from_folder_or_hub, source, folder)

    def _from_folder_or_hub(self, source: str, folder: Path) -> None:
        if source.startswith(("/", "./", "../", "~")) or Path(source).is_dir():
            self._copy(Path(source).expanduser(), folder)
        else:
            self._from_hub(source, folder)

    def _copy(self, origin: Path, folder: Path) -> None:
        for name in ADAPTER_FILES:
            if not (origin / name).is_file():
                raise AdapterSourceError(f"{origin}: no {name} in this folder")
            if (origin / name).stat().st_size > self._config.files_bytes_max:
                raise AdapterSourceError(f"{origin / name}: larger than {self._config.files_bytes_max} bytes")
            shutil.copyfile(origin / name, folder / name)

    def _from_hub(self, source: str, folder: Path) -> None:
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise AdapterSourceError(f"{source}: huggingface_hub is not installed") from error
        identity, _, revision = source.partition("@")
        try:
            found = snapshot_download(identity, revision=revision or None, allow_patterns=list(ADAPTER_FILES))
        except Exception as error:  # the hub's client raises errors of a dozen families
            raise AdapterSourceError(
                f"{source}: no folder of that name, and the Hugging Face hub does not give it: {error}"
            ) from error
        self._copy(Path(found), folder)

    async def _from_s3(self, source: str, folder: Path) -> None:
        bucket, _, prefix = source.removeprefix(_S3_PREFIX).partition("/")
        s3, keys = self._config.s3, S3Keys.from_environment(os.environ)
        async with aiohttp.ClientSession(trust_env=True) as session:
            for name in ADAPTER_FILES:
                key = f"{prefix.strip('/')}/{name}".lstrip("/")
                url = object_url(bucket, key, endpoint_url=s3.endpoint_url, region=s3.region)
                now = datetime.now(UTC)
                headers = signed_headers(url, keys, region=s3.region, now=now) if keys else {}
                await self._download(session, url, folder / name, headers)

    async def _from_http(self, source: str, folder: Path) -> None:
        async with aiohttp.ClientSession(trust_env=True) as session:
            if source.endswith("/"):
                for name in ADAPTER_FILES:
                    await self._download(session, source + name, folder / name, {})
                return
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".archive") as archive:
                await self._download(session, source, Path(archive.name), {})
                await asyncio.to_thread(self._unpack, source, Path(archive.name), folder)

    async def _download(
        self, session: aiohttp.ClientSession, url: str, target: Path, headers: dict[str, str]
    ) -> None:
        timeout = aiohttp.ClientTimeout(total=None)  # the whole fetch has one
        async with session.get(url, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise AdapterSourceError(f"{url}: status {response.status}")
            left = self._config.files_bytes_max
            with target.open("wb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise AdapterSourceError(
                            f"{url}: larger than {self._config.files_bytes_max} bytes; raise "
                            "adapters.files_bytes_max if it is meant"
                        )
                    await asyncio.to_thread(file.write, chunk)

    def _unpack(self, source: str, archive: Path, folder: Path) -> None:
        path = source.partition("?")[0]
        try:
            if path.endswith(".zip"):
                self._unzip(archive, folder)
            elif path.endswith(_TAR_ENDINGS):
                self._untar(archive, folder)
            else:
                raise AdapterSourceError(
                    f"{source}: neither .zip nor .tar.gz, nor a folder (which ends in /)"
                )
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise AdapterSourceError(f"{source}: a damaged archive: {error}") from error
        missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
        if missing:
            raise AdapterSourceError(f"{source}: no {' and no '.join(missing)} in the archive")

    def _unzip(self, archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                name = PurePosixPath(member.filename).name
                if name in ADAPTER_FILES and not member.is_dir():
                    with content.open(member) as stream:
                        self._write(stream, folder / name)

    def _untar(self, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as content:
            for member in content:
                name = PurePosixPath(member.name).name
                stream = content.extractfile(member) if name in ADAPTER_FILES and member.isfile() else None
                if stream is not None:
                    with stream:
                        self._write(stream, folder / name)

    def _write(self, stream: IO[bytes], target: Path) -> None:
        """Copy a member, which may unpack to far more than the archive."""
        left = self._config.files_bytes_max
        with target.open("wb") as file:
            while chunk := stream.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise AdapterSourceError(f"{target.name}: unpacks to more than adapters.files_bytes_max")
                file.write(chunk)
