"""Asks the running gateway, for the commands that only look."""

import os
import re
from collections.abc import Mapping
from typing import Any

import httpx

from operators.cli.console import CliError
from operators.cli.state import load_state, read_admin_key, sound_key, state_dir_of

NOTHING_RUNS = "no Tidemill cluster runs here; `tidemill up` starts one, --url names another"
_TIMEOUT_S = 10.0
_ADDRESS = re.compile(r"https?://[^/\s]+(/\S*)?")


def gateway_url(url: str | None, env: Mapping[str, str]) -> str:
    """Address of the gateway to ask: the one given, or that of the cluster on this machine.

    Raises:
        CliError: nothing runs here and none was given, or what was given is no address.
    """
    if url:
        if not _ADDRESS.fullmatch(url):
            raise CliError(
                f"{url} is not the address of a gateway, such as http://127.0.0.1:8000", exit_code=2
            )
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
    headers = bearer(_key(target, env, given=url is not None))
    try:
        # No proxy from the environment: a corporate one knows nothing of this machine's ports.
        with httpx.Client(timeout=timeout_s, trust_env=False) as client:
            response = client.request(method, f"{target}{path}", headers=headers, json=content)
    except httpx.HTTPError as error:
        raise CliError(f"{target} does not answer ({type(error).__name__}); is it still starting?") from error
    if response.status_code != 200:
        raise CliError(refusal(response))
    return _content(response, target)


def _key(target: str, env: Mapping[str, str], *, given: bool) -> str:
    """The admin key of a gateway: the one that the user names for it, or that of the cluster here."""
    if given and (key := env.get("TIDEMILL_ADMIN_KEY")):
        return sound_key(key, "TIDEMILL_ADMIN_KEY")
    state = load_state(state_dir_of(env))
    if state is not None and state.url == target:
        return read_admin_key(state, env)
    if given:
        raise CliError("set TIDEMILL_ADMIN_KEY to the admin key of that gateway")
    raise CliError(NOTHING_RUNS)


def api_key(env: Mapping[str, str]) -> str | None:
    """The user's API key, where he has one.

    Raises:
        CliError: it cannot be a key.
    """
    key = env.get("TIDEMILL_API_KEY")
    return sound_key(key, "TIDEMILL_API_KEY") if key else None


def bearer(key: str | None) -> dict[str, str]:
    """The header that shows a key; none without one."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def first_model(target: str, key: str | None) -> str:
    """The model that a gateway names first.

    Raises:
        CliError: it does not answer, refused, serves none, or is none.
    """
    try:
        with httpx.Client(timeout=_TIMEOUT_S, headers=bearer(key), trust_env=False) as client:
            response = client.get(f"{target}/v1/models")
    except httpx.HTTPError as error:
        raise CliError(f"{target} does not answer ({type(error).__name__}); is it still starting?") from error
    if response.status_code != 200:
        raise CliError(refusal(response))
    models = _content(response, target)["data"]
    if not models:
        raise CliError(f"{target} serves no model")
    return str(models[0]["id"])


def _content(response: httpx.Response, target: str) -> Any:
    """The JSON in an answer.

    Raises:
        CliError: it holds none, so somebody else answered.
    """
    try:
        return response.json()
    except ValueError:
        raise CliError(
            f"{target} does not answer as a Tidemill gateway does; is the address right?"
        ) from None


def refusal(response: httpx.Response) -> str:
    """The message of an error in OpenAI's shape, or the status."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text.strip()[:200] or response.reason_phrase
    return f"the gateway answered {response.status_code}: {message}"
