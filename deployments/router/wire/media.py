"""Images, audio and video that a request only points at: engines would fetch them, from wherever it says.

An engine stands inside the network, so a client who names the address could reach what only engines reach:
metadata services of clouds, dashboards, other engines. So media come within the request (`data:`), but for
hosts that the configuration names. The engine is told the same hosts and has the last word: two readers of
addresses never agree on all of them.
"""

from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from deployments.router.wire.errors import ApiError, bad_request

_MEDIA = ("image_url", "audio_url", "video_url", "file_url", "source")
"""Where the surfaces have addresses, whatever the part's type says; `source` is Anthropic's."""
_NESTED = ("content", "output")
"""Where parts have parts: results of tools, items of a response's input."""
_HOLDERS = ("messages", "input")
_SHOWN_CHARACTERS = 100


def check_media(body: dict[str, Any], domains: Collection[str]) -> None:
    """Refuse a request that points at media elsewhere.

    Args:
        body: the request.
        domains: hosts from which engines may fetch.

    Raises:
        ApiError: 400, it names the part.
    """
    for holder in _HOLDERS:
        messages = body.get(holder)
        if isinstance(messages, list):
            for path, url in _pointers(messages, holder):
                if url[:5].lower() != "data:" and not _is_allowed(url, domains):
                    raise _refused(path, url, domains)


def _pointers(parts: list[Any], path: str) -> Iterator[tuple[str, str]]:
    """Every address in a list of messages or parts, with where it stands. Texts are not looked at."""
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            continue
        for name in _MEDIA:
            if name in part:
                yield from _pointer(part[name], f"{path}[{index}].{name}")
        for name in _NESTED:
            inner = part.get(name)
            if isinstance(inner, list):
                yield from _pointers(inner, f"{path}[{index}].{name}")
            elif isinstance(inner, dict):
                yield from _pointers([inner], f"{path}[{index}].{name}")


def _pointer(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        value, path = value.get("url"), f"{path}.url"
    if isinstance(value, str):
        yield path, value


def _is_allowed(url: str, domains: Collection[str]) -> bool:
    try:
        found = urlsplit(url)
    except ValueError:
        return False
    return found.scheme in ("http", "https") and found.hostname in domains


def _refused(path: str, url: str, domains: Collection[str]) -> ApiError:
    where = f", or from {', '.join(sorted(domains))}" if domains else ""
    message = (
        f"`{path}` points at {url[:_SHOWN_CHARACTERS]!r}; media are taken within the request (data: URLs)"
        f"{where}. Further domains: gateway.allowed_media_domains."
    )
    return bad_request(message, param=path, code="media_url_not_allowed")
