"""Learnt states as bytes for the disk, exact in both directions."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FORMAT = 2


def encode_state(policy: str, fields: Mapping[str, Any]) -> bytes:
    """One JSON object; arrays become their shape and their bytes, so that no digit is lost."""
    body = {"format": _FORMAT, "policy": policy, **{name: _plain(value) for name, value in fields.items()}}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def decode_state(policy: str, data: bytes) -> dict[str, Any]:
    """The fields that `encode_state` was given.

    Raises:
        ValueError: the bytes are not a state of this policy.
    """
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ValueError(f"not a state of {policy}: not JSON") from error
    if not isinstance(body, dict) or body.pop("policy", None) != policy:
        raise ValueError(f"not a state of {policy}")
    if body.pop("format", None) != _FORMAT:
        raise ValueError(f"a state of {policy} in a format that this version does not read")
    return {name: _rich(value) for name, value in body.items()}


def array(fields: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A decoded array of exactly this shape.

    Raises:
        ValueError: it is missing or of another shape.
    """
    found = fields.get(name)
    if not isinstance(found, np.ndarray) or found.shape != shape:
        raise ValueError(f"state: {name} should be an array of shape {shape}")
    return found


def entry(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    """A decoded plain value of this type.

    Raises:
        ValueError: it is missing or of another type.
    """
    found = fields.get(name)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ValueError(f"state: {name} should be of type {kind.__name__}")  # noqa: TRY004 - damaged data
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        values = np.ascontiguousarray(value, dtype="<f8")
        return {"shape": list(value.shape), "f8": base64.b64encode(values.tobytes()).decode()}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"shape", "f8"}:
            return _array_of(value)
        return {name: _rich(part) for name, part in value.items()}
    return value


def _array_of(value: dict[str, Any]) -> NDArray[np.float64]:
    try:
        content = base64.b64decode(value["f8"], validate=True)
        read = np.frombuffer(content, dtype="<f8").reshape(value["shape"]).astype(np.float64)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError("state: an array is damaged") from error
    if not np.isfinite(read).all():
        raise ValueError("state: an array holds something that is not a finite number")
    return read
