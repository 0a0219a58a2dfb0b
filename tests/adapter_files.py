"""Adapter folders that are right in form, tiny, and each of its own hash."""

import json
import struct
from pathlib import Path


def write_adapter(folder: Path, seed: int, *, rank: int = 8, size: int = 4096) -> Path:
    """A folder with PEFT's two files; one tensor of `size` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shape = [1, size // 4]
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    body = struct.pack("<Q", len(header)) + header + bytes([seed % 256]) * size
    (folder / "adapter_model.safetensors").write_bytes(body)
    return folder
