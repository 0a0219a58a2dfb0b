"""The double's HTTP side: discovery, schemas' index, objects and watches, as kubectl asks for them."""

import contextlib
import http.server
import json
import threading
import time
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.k8s.api_double import ApiDouble, RefusedError

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_WATCH_S = 30.0


class ApiServer:
    """The double on a free port of this machine."""

    def __init__(self):
        self.double = ApiDouble()
        handler = type("Handler", (_Handler,), {"double": self.double})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.double.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def write_kubeconfig(self, path):
        """A kubeconfig that leads here and nowhere else."""
        name = "double"
        cluster = {"server": f"http://127.0.0.1:{self._server.server_port}"}
        data = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        path.write_text(yaml.safe_dump(data), encoding="utf-8")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: ApiDouble

    def log_message(self, *_):
        """Tests read answers, not logs."""

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def do_PUT(self):
        self._answer(self._put)

    def do_PATCH(self):
        self._answer(self._patch)

    def do_DELETE(self):
        self._answer(self._delete)

    def _answer(self, act):
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.parts = [part for part in url.path.split("/") if part]
        length = int(self.headers.get("Content-Length") or 0)
        self.body = yaml.load(self.rfile.read(length), yaml.CSafeLoader) if length else None
        try:
            found = act()
        except RefusedError as refusal:
            self._send(refusal.code, _status(refusal))
        else:
            if found is not None:
                self._send(201 if act == self._post else 200, found)

    def _send(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _get(self):  # noqa: PLR0911 - one line for each address
        match self.parts:
            case ["version"]:
                return {"major": "1", "minor": "37", "gitVersion": "v1.37.1"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()}
            case ["api", "v1"]:
                return self._resource_list("v1")
            case ["apis", group, version]:
                return self._resource_list(f"{group}/{version}")
            case ["openapi", "v3"]:
                return self._schema_index()
            case ["openapi", "v3", *path]:
                return self._schema_document("/".join(path))
        resource, namespace, name = self._place()
        if self.query.get("watch") in {"true", "1"}:
            return self._watch(resource, namespace)
        if name is not None:
            return self.double.get(resource, namespace, name)
        return {
            "apiVersion": resource.api_version,
            "kind": f"{resource.kind}List",
            "metadata": {"resourceVersion": str(self.double.resource_version)},
            "items": [entry for entry in self.double.list(resource, namespace) if self._selected(entry)],
        }

    def _post(self):
        resource, namespace, _ = self._place()
        return self.double.create(resource, namespace, self.body, **self._mode())

    def _put(self):
        resource, namespace, name = self._place()
        return self.double.replace(resource, namespace, name, self.body, **self._mode())

    def _patch(self):
        resource, namespace, name = self._place()
        manager = self.query.get("fieldManager", "unknown")
        if "apply-patch" not in self.headers["Content-Type"]:
            return self.double.merge(resource, namespace, name, self.body, manager=manager, **self._mode())
        return self.double.apply(
            resource,
            namespace,
            name,
            self.body,
            manager=manager,
            force=self.query.get("force") == "true",
            **self._mode(),
        )

    def _delete(self):
        resource, namespace, name = self._place()
        uid = self.double.delete(resource, namespace, name)
        details = {"name": name, "kind": resource.plural, "group": resource.group, "uid": uid}
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}

    def _mode(self):
        return {
            "strict": self.query.get("fieldValidation") == "Strict",
            "dry_run": self.query.get("dryRun") == "All",
        }

    def _place(self):
        """Resource, namespace and name that a path means."""
        match self.parts:
            case ["api", "v1", *rest]:
                api_version = "v1"
            case ["apis", group, version, *rest]:
                api_version = f"{group}/{version}"
            case _:
                raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        namespace = None
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        resource = self.double.resource(api_version, rest[0])
        return resource, namespace, rest[1] if len(rest) > 1 else None

    def _selected(self, entry):
        wanted = self.query.get("fieldSelector", "")
        return not wanted.startswith("metadata.name=") or entry["metadata"]["name"] == wanted.split("=", 1)[1]

    def _watch(self, resource, namespace):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        version = int(self.query.get("resourceVersion") or 0)
        if self.query.get("sendInitialEvents") == "true":
            version = self.double.resource_version
            for entry in self.double.list(resource, namespace):
                self._event("ADDED", entry, namespace)
            self._say("BOOKMARK", _end_of_list(resource, version))
        ends_at_s = time.monotonic() + min(float(self.query.get("timeoutSeconds", _WATCH_S)), _WATCH_S)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while (left_s := ends_at_s - time.monotonic()) > 0 and not self.double.closed:
                for changed_in, what, value in self.double.changes(resource, version, left_s):
                    version = changed_in
                    self._event(what, value, namespace)

    def _event(self, what, value, namespace):
        if namespace in (None, value["metadata"].get("namespace")) and self._selected(value):
            self._say(what, value)

    def _say(self, what, value):
        self.wfile.write(json.dumps({"type": what, "object": value}).encode() + b"\n")

    def _groups(self):
        versions = {}
        for entry in self.double.resources:
            if entry.group:
                known = versions.setdefault(entry.group, [])
                if entry.api_version not in known:
                    known.append(entry.api_version)
        shown = {
            group: [{"groupVersion": entry, "version": entry.split("/")[1]} for entry in entries]
            for group, entries in versions.items()
        }
        return [
            {"name": group, "versions": entries, "preferredVersion": entries[0]}
            for group, entries in shown.items()
        ]

    def _resource_list(self, api_version):
        found = [entry for entry in self.double.resources if entry.api_version == api_version]
        if not found:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version,
            "resources": [
                {
                    "name": entry.plural,
                    "singularName": entry.kind.lower(),
                    "kind": entry.kind,
                    "namespaced": entry.namespaced,
                    "shortNames": list(entry.short_names),
                    "verbs": _VERBS,
                }
                for entry in found
            ],
        }

    def _schema_index(self):
        versions = {entry.api_version for entry in self.double.resources}
        paths = {
            _root(version): {"serverRelativeURL": f"/openapi/v3/{_root(version)}?hash=1"}
            for version in versions
        }
        return {"paths": paths}

    def _schema_document(self, path):
        """That strict checking is asked of the server is all that kubectl takes from it."""
        parameters = [
            {"name": name, "in": "query", "schema": {"type": "string"}}
            for name in ("dryRun", "fieldManager", "fieldValidation", "force")
        ]
        paths = {}
        for entry in self.double.resources:
            if _root(entry.api_version) != path:
                continue
            version = entry.api_version.rpartition("/")[2]
            kind = {"group": entry.group, "version": version, "kind": entry.kind}
            operation = {"parameters": parameters, "x-kubernetes-group-version-kind": kind, "responses": {}}
            place = (
                f"/{path}/namespaces/{{namespace}}/{entry.plural}"
                if entry.namespaced
                else f"/{path}/{entry.plural}"
            )
            paths[place] = {"post": operation}
            paths[f"{place}/{{name}}"] = {"patch": operation, "put": operation}
        info = {"title": "double", "version": "1"}
        return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


def _end_of_list(resource, version):
    """Tells a watch that began with what is there that now comes what is new."""
    annotations = {"k8s.io/initial-events-end": "true"}
    metadata = {"resourceVersion": str(version), "annotations": annotations}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def _root(api_version):
    return f"api/{api_version}" if "/" not in api_version else f"apis/{api_version}"


def _status(refusal):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refusal),
        "reason": refusal.reason,
        "details": {"causes": refusal.causes},
        "code": refusal.code,
    }
