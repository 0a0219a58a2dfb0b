"""Asks the running gateway, for the commands that only look."""

import os
from collections.abc import Mapping
from typing import Any

import httpx

from operators.cli.console import CliError
from operators.cli.state import load_state, read_admin_key, state_dir_of

NOTHING_RUNS = "no Tidemill cluster runs here; `tidemill up` starts one, --url names another"
_TIMEOUT_S = 10.0


def gateway_url(url: str | None, env: Mapping[str, str]) -> str:
    """Address of the gateway to ask: the one given, or that of the cluster on this machine.

    Raises:
        CliError: nothing runs here and none was given.
    """
    if url:
        return url.rstrip("/").removesuffix("/v1")
    state = load_state(state_dir_of(env))
    if state is None or state.running_pid is None:
        raise CliError(NOTHING_RUNS)
    return state.url


def admin_get(path: str, *, url: str | None) -> Any:
    """The JSON answer of an `/admin` page.

    Raises:
        CliError: nothing runs, the key is not to be had, or the gateway refused.
    """
    return _admin("GET", path, None, url=url)


def admin_delete(path: str, *, url: str | None) -> Any:
    """The JSON answer of an `/admin` page that removes something.

    Raises:
        CliError: as for `admin_get`.
    """
    return _admin("DELETE", path, None, url=url)


def admin_post(path: str, content: dict[str, Any], *, url: str | None, timeout_s: float = _TIMEOUT_S) -> Any:
    """The JSON answer of an `/admin` page to some content.

    Raises:
        CliError: as for `admin_get`.
    """
    return _admin("POST", path, content, url=url, timeout_s=timeout_s)


def _admin(
    method: str,
    path: str,
    content: dict[str, Any] | None,
    *,
    url: str | None,
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    env = os.environ
    target = gateway_url(url, env)
    headers = {"authorization": f"Bearer {_key(url, env)}"}
    try:
        # No proxy from the environment: a corporate one knows nothing of this machine's ports.
        with httpx.Client(timeout=timeout_s, trust_env=False) as client:
            response = client.request(method, f"{target}{path}", headers=headers, json=content)
    except httpx.HTTPError as error:
        raise CliError(f"{target} does not answer ({type(error).__name__}); is it still starting?") from error
    if response.status_code != 200:
        raise CliError(refusal(response))
    return response.json()


def _key(url: str | None, env: Mapping[str, str]) -> str:
    if url:
        key = env.get("TIDEMILL_ADMIN_KEY")
        if not key:
            raise CliError("set TIDEMILL_ADMIN_KEY to the admin key of that gateway")
        return key
    state = load_state(state_dir_of(env))
    if state is None:
        raise CliError(NOTHING_RUNS)
    return read_admin_key(state, env)


def refusal(response: httpx.Response) -> str:
    """The message of an error in OpenAI's shape, or the status."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text.strip()[:200] or response.reason_phrase
    return f"the gateway answered {response.status_code}: {message}"
