"""An HTTP server that answers as Grafana does, as far as the publisher's paths go, faults on order."""

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "glsa_0123456789"


class Grafana:
    """What it holds, and what it was asked."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.folders: dict[str, dict[str, Any]] = {}
        self.datasources: dict[str, dict[str, Any]] = {}
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.writes: list[tuple[str, str]] = []
        self.fault: tuple[int, str, str] | None = None
        """Status, content type and body for everything."""
        self.url = ""

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
        if not path.startswith(f"{self.prefix}/api/"):
            return 404, {"message": "Not found"}
        path = path.removeprefix(f"{self.prefix}/api")
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        if method != "GET":
            self.writes.append((method, path))
        what, _, rest = path[1:].partition("/")
        handlers = {
            "folders": self._folders,
            "datasources": self._datasources,
            "dashboards": self._dashboards,
        }
        return handlers[what](method, rest, body) if what in handlers else (404, {"message": "Not found"})

    def _folders(self, method: str, uid: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            if body["uid"] in self.folders:
                return 412, {"message": "a folder with the same uid already exists", "status": "name-exists"}
            self.folders[body["uid"]] = {"id": len(self.folders) + 1, **body, "version": 1}
            return 200, self.folders[body["uid"]]
        if uid not in self.folders:
            return 404, {"message": "folder not found", "status": "not-found"}
        if method == "PUT":
            self.folders[uid]["title"] = body["title"]
        return 200, self.folders[uid]

    def _datasources(self, method: str, rest: str, body: Any) -> tuple[int, Any]:
        if method == "POST" and not rest:
            if any(found["name"] == body["name"] for found in self.datasources.values()):
                return 409, {"message": "data source with the same name already exists"}
            made = {"id": len(self.datasources) + 1, "orgId": 1, "version": 1, "readOnly": False, **body}
            self.datasources[body["uid"]] = made
            return 200, {
                "id": made["id"],
                "name": made["name"],
                "message": "Datasource added",
                "datasource": made,
            }
        if not rest.startswith("uid/"):
            # Grafana 13: numeric ids are off.
            return 404, {"message": "Not found"}
        uid = unquote(rest.removeprefix("uid/"))
        if uid not in self.datasources:
            return 404, {"message": "Data source not found"}
        if method == "PUT":
            self.datasources[uid] = {**self.datasources[uid], **body}
            return 200, {"message": "Datasource updated", "datasource": self.datasources[uid]}
        return 200, self.datasources[uid]

    def _dashboards(self, method: str, rest: str, body: Any) -> tuple[int, Any]:
        if method == "POST" and rest == "db":
            if body["folderUid"] not in self.folders:
                return 400, {"message": "folder not found"}
            dashboard = copy.deepcopy(body["dashboard"])
            known = self.dashboards.get(dashboard["uid"])
            if known is not None and not body["overwrite"]:
                return 412, {"message": "the dashboard has been changed by someone else"}
            version = 1 if known is None else known["dashboard"]["version"] + 1
            dashboard |= {"id": len(self.dashboards) + 1, "version": version}
            self.dashboards[dashboard["uid"]] = {
                "dashboard": dashboard,
                "meta": {"folderUid": body["folderUid"], "slug": "x"},
            }
            return 200, {"uid": dashboard["uid"], "status": "success", "version": version}
        uid = rest.removeprefix("uid/")
        if not rest.startswith("uid/") or uid not in self.dashboards:
            return 404, {"message": "Dashboard not found", "status": "not-found"}
        return 200, self.dashboards[uid]


@contextmanager
def serving(grafana: Grafana) -> Iterator[Grafana]:
    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.loads(raw) if raw else None
            if grafana.fault is not None:
                status, content_type, text = grafana.fault
            else:
                token = self.headers.get("authorization", "")
                status, found = grafana.answer(self.command, self.path, token, body)
                content_type, text = "application/json", json.dumps(found)
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - names of the standard library

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    grafana.url = f"http://127.0.0.1:{server.server_port}{grafana.prefix}"
    try:
        yield grafana
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
