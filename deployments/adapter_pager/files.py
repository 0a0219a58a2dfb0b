"""An adapter's files as PEFT writes them: what they must be, what they say, and the hash they go by.

Weights are taken as safetensors only: the other format is pickled code. All of this blocks: call it in
threads.
"""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
_CONFIG_BYTES_MAX = 1 << 20
_HEADER_BYTES_MAX = 64 << 20


class AdapterFilesError(Exception):
    """The files are not those of an adapter that can be served, or not the expected ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """What an adapter's files say."""

    sha256: str
    rank: int
    """The largest of its layers."""
    bytes: int
    """Of its weights."""


def adapter_sha256(folder: Path) -> str:
    """What `sha256sum adapter_config.json adapter_model.safetensors | sha256sum` prints in the folder.

    The configuration is part of it, because the same matrices with another alpha are another adapter.
    """
    lines = ""
    for name in ADAPTER_FILES:
        with (folder / name).open("rb") as stream:
            lines += f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def read_adapter(folder: Path) -> AdapterFacts:
    """Check an adapter's files and read what they say; reading them whole also leaves them in memory.

    Raises:
        AdapterFilesError: they are missing, damaged or of a kind that vLLM does not serve.
    """
    try:
        rank = _rank(folder / CONFIG_FILE)
        size = _check_weights(folder / WEIGHTS_FILE)
        return AdapterFacts(sha256=adapter_sha256(folder), rank=rank, bytes=size)
    except FileNotFoundError as error:
        raise AdapterFilesError(f"{Path(str(error.filename)).name} is missing") from error
    except OSError as error:
        raise AdapterFilesError(f"cannot be read: {error}") from error


def _rank(path: Path) -> int:
    if path.stat().st_size > _CONFIG_BYTES_MAX:
        raise AdapterFilesError(f"{CONFIG_FILE} is larger than {_CONFIG_BYTES_MAX} bytes")
    try:
        config: Any = json.loads(path.read_bytes())
        kind, rank = config.get("peft_type", "LORA"), int(config["r"])
        others = [int(other) for other in (config.get("rank_pattern") or {}).values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterFilesError(
            f"{CONFIG_FILE}: not the configuration of a LoRA adapter ({error!r})"
        ) from error
    if kind != "LORA" or rank < 1:
        raise AdapterFilesError(f"{CONFIG_FILE}: peft_type {kind} with r={rank}; only LoRA is served")
    return max([rank, *others])


def _check_weights(path: Path) -> int:
    """The format's own rules: a header that says where every tensor lies, and no byte less."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_HEADER_BYTES_MAX, size - 8):
            raise AdapterFilesError(f"{WEIGHTS_FILE}: not in the safetensors format, or cut off")
        try:
            tensors: dict[str, Any] = json.loads(stream.read(length))
            ends = [
                int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise AdapterFilesError(f"{WEIGHTS_FILE}: its header is damaged ({error!r})") from error
    if not ends:
        raise AdapterFilesError(f"{WEIGHTS_FILE}: holds no tensor")
    if 8 + length + max(ends) != size:
        raise AdapterFilesError(
            f"{WEIGHTS_FILE}: has {size} bytes and its header says {8 + length + max(ends)}"
        )
    return size
