"""Grafana over HTTP: the one place that knows the client library, and what must be known of it.

`grafana-api` 1.0.3 takes a URL in pieces, lets errors of `requests` through, fails on answers without JSON,
and addresses data sources by numeric ids, which Grafana 13 has switched off. So only its session is used
here, with paths by uid, and everything that goes wrong becomes one kind of error. Creating by POST is
deprecated since Grafana 13 and works. Never run against a live Grafana.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace

Json = dict[str, Any]
_TIMEOUT_S = 10.0
_TAKEN = (409, 412)
"""Grafana's answers to creating what is there already."""
_OURS_ALONE = ("id", "version")
"""Of a dashboard: Grafana counts them itself."""


class GrafanaError(RuntimeError):
    """Grafana is away, refused, or is no Grafana; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What became of one thing."""

    kind: str
    """`folder`, `datasource` or `dashboard`."""
    uid: str
    result: str
    """`created`, `updated` or `unchanged`."""


class GrafanaPublisher:
    """Creates folders, data sources and dashboards, or makes those of the same uid what they should be."""

    def __init__(self, url: str, token: str, *, verify: bool = True) -> None:
        """Open no connection.

        Args:
            url: Grafana's, with a path if it has one.
            token: of a service account.
            verify: whether its certificate is checked.

        Raises:
            GrafanaError: the URL is none.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise GrafanaError(f"{url}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise GrafanaError(f"{url} is not the URL of a Grafana, such as https://grafana.example.com/")
        if parts.username or parts.password:
            raise GrafanaError("give a token in a file, not a password in the URL")
        self._url = url
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        prefix = parts.path.strip("/")
        self._api = GrafanaFace(
            auth=token,
            host=host,
            port=port,
            url_path_prefix=f"{prefix}/" if prefix else "",
            protocol=parts.scheme,
            verify=verify,
            timeout=_TIMEOUT_S,
        ).api

    def folder(self, uid: str, title: str) -> Pushed:
        """Have a folder.

        Raises:
            GrafanaError: it could not be had.
        """
        found = self._find(f"/folders/{quote(uid, safe='')}")
        if found is None:
            self._create("/folders", {"uid": uid, "title": title}, f"folder {uid}")
            return Pushed(kind="folder", uid=uid, result="created")
        if found.get("title") == title:
            return Pushed(kind="folder", uid=uid, result="unchanged")
        self._call("PUT", f"/folders/{quote(uid, safe='')}", {"title": title, "overwrite": True})
        return Pushed(kind="folder", uid=uid, result="updated")

    def datasource(self, uid: str, name: str, prometheus_url: str) -> Pushed:
        """Have a data source for a Prometheus.

        Raises:
            GrafanaError: it could not be had; another one may have its name.
        """
        wanted = {
            "uid": uid,
            "name": name,
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus_url,
            "isDefault": False,
            "jsonData": {"httpMethod": "POST", "timeInterval": "5s"},
        }
        path = f"/datasources/uid/{quote(uid, safe='')}"
        found = self._find(path)
        if found is None:
            self._create("/datasources", wanted, f"data source {name}")
            return Pushed(kind="datasource", uid=uid, result="created")
        kept = {key: value for key, value in wanted.items() if key != "isDefault"}  # the user's choice
        if all(found.get(key) == value for key, value in kept.items()):
            return Pushed(kind="datasource", uid=uid, result="unchanged")
        if found.get("readOnly"):
            raise GrafanaError(f"data source {uid} is provisioned from a file there and cannot be changed")
        self._call("PUT", path, {**found, **kept})
        return Pushed(kind="datasource", uid=uid, result="updated")

    def dashboard(self, dashboard: Json, folder_uid: str) -> Pushed:
        """Have a dashboard in a folder.

        Raises:
            GrafanaError: it could not be had.
        """
        uid = str(dashboard["uid"])
        found = self._find(f"/dashboards/uid/{quote(uid, safe='')}")
        if found is not None:
            there = {key: value for key, value in found["dashboard"].items() if key not in _OURS_ALONE}
            if there == dashboard and found.get("meta", {}).get("folderUid") == folder_uid:
                return Pushed(kind="dashboard", uid=uid, result="unchanged")
        body = {
            "dashboard": {**dashboard, "id": None},
            "folderUid": folder_uid,
            "overwrite": True,
            "message": "tidemill dashboards push",
        }
        answer = self._call("POST", "/dashboards/db", body)
        if answer.get("uid") != uid:
            raise self._no_grafana("/dashboards/db")
        return Pushed(kind="dashboard", uid=uid, result="created" if found is None else "updated")

    def _find(self, path: str) -> Json | None:
        """What is there under a uid; None if nothing is."""
        try:
            return self._call("GET", path)
        except GrafanaError as error:
            cause = error.__cause__
            if isinstance(cause, GrafanaClientError) and cause.status_code == 404:
                return None
            raise

    def _create(self, path: str, body: Json, what: str) -> None:
        try:
            answer = self._call("POST", path, body)
        except GrafanaError as error:
            cause = error.__cause__
            if isinstance(cause, GrafanaClientError) and cause.status_code in _TAKEN:
                raise GrafanaError(
                    f"{what}: another one of that name is there; rename or remove it in Grafana"
                ) from error
            raise
        made = answer.get("datasource", answer)
        if made.get("uid") != body["uid"]:
            raise self._no_grafana(path)

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        try:
            answer = getattr(self._api, method)(path, json=body)
        except GrafanaException as error:
            raise GrafanaError(
                f"{self._url} answered {method} {path}: {error.message}{_hint(error)}"
            ) from error
        except requests.exceptions.JSONDecodeError as error:
            raise self._no_grafana(path) from error
        except requests.RequestException as error:
            raise GrafanaError(f"{self._url} does not answer: {type(error).__name__}: {error}") from error
        except (TypeError, KeyError) as error:
            # Its reading of an error's message fails where the answer is text with that word in it.
            raise GrafanaError(
                f"{self._url} answered {method} {path} with an error that is no JSON"
            ) from error
        if not isinstance(answer, dict):
            raise self._no_grafana(path)
        return answer

    def _no_grafana(self, path: str) -> GrafanaError:
        return GrafanaError(
            f"{self._url} did not answer {path} as a Grafana does; is the address right, with path and https?"
        )


def _hint(error: GrafanaException) -> str:
    if error.status_code == 401:
        return "; the token is wrong or has expired"
    if error.status_code == 403:
        return "; the token's service account needs the role Editor, and Admin for data sources"
    return ""
