"""A stand-in for a Kubernetes API server: enough for the real kubectl to apply, diff, get, wait and delete.

It stores objects and checks them as a server does (CRDs by `crd_schema`, built-in kinds by the published
schemas), knows who owns which field after server-side apply, and does nothing with what it stores: no pod is
ever started. HTTP is in `api_http`.
"""

import copy
import functools
import itertools
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

import kubernetes_validate

from tests.k8s.crd_schema import schemas_of

CRD_KIND = "CustomResourceDefinition"
_SCHEMAS_OF = "1.37"


@dataclass(frozen=True)
class Resource:
    """A kind as discovery lists it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()

    @property
    def group(self):
        return self.api_version.rpartition("/")[0]


BUILT_IN = (
    Resource("v1", "Namespace", "namespaces", namespaced=False, short_names=("ns",)),
    Resource("v1", "ConfigMap", "configmaps", short_names=("cm",)),
    Resource("v1", "Service", "services", short_names=("svc",)),
    Resource("v1", "ServiceAccount", "serviceaccounts", short_names=("sa",)),
    Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims", short_names=("pvc",)),
    Resource("apps/v1", "StatefulSet", "statefulsets", short_names=("sts",)),
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", short_names=("pdb",)),
    Resource("networking.k8s.io/v1", "Ingress", "ingresses", short_names=("ing",)),
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", short_names=("netpol",)),
    Resource("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Resource("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    Resource(
        "apiextensions.k8s.io/v1",
        CRD_KIND,
        "customresourcedefinitions",
        namespaced=False,
        short_names=("crd", "crds"),
    ),
)


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, code, reason, message, causes=()):
        super().__init__(message)
        self.code, self.reason, self.causes = code, reason, list(causes)


@dataclass
class Stored:
    """An object and what each manager last applied of it."""

    value: dict
    applied: dict = field(default_factory=dict)


class ApiDouble:
    """The store. Every method may be called from any thread."""

    def __init__(self):
        self._changed = threading.Condition(threading.RLock())
        self._versions = itertools.count(1)
        self.resource_version = 0
        self.resources = list(BUILT_IN)
        self._schemas = {}
        self._objects = {}
        self.events = []
        self.closed = False

    def close(self):
        """Let those go who wait for changes."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def resource(self, api_version, plural):
        """A declared kind."""
        for entry in self.resources:
            if (entry.api_version, entry.plural) == (api_version, plural):
                return entry
        raise RefusedError(404, "NotFound", "the server could not find the requested resource")

    def get(self, resource, namespace, name):
        """A stored object."""
        with self._changed:
            return copy.deepcopy(self._found(resource, namespace, name).value)

    def list(self, resource, namespace=None):
        """All objects of a kind, in order of creation."""
        with self._changed:
            return [
                copy.deepcopy(stored.value)
                for (kind, place, _), stored in self._objects.items()
                if kind == (resource.api_version, resource.plural) and namespace in (None, place)
            ]

    def create(self, resource, namespace, value, *, strict, dry_run):
        """Store a new object."""
        with self._changed:
            key = self._key(resource, namespace, value["metadata"]["name"])
            if key in self._objects:
                raise RefusedError(409, "AlreadyExists", f'{resource.plural} "{key[2]}" already exists')
            return self._store(resource, key, None, value, {}, strict=strict, dry_run=dry_run)

    def replace(self, resource, namespace, name, value, *, strict, dry_run):
        """Put an object in the place of the one whose version it has."""
        with self._changed:
            before = self._found(resource, namespace, name)
            version = value["metadata"].get("resourceVersion")
            if version not in (None, before.value["metadata"]["resourceVersion"]):
                raise RefusedError(
                    409, "Conflict", f'{resource.plural} "{name}": the object has been modified'
                )
            key = self._key(resource, namespace, name)
            return self._store(resource, key, before, value, before.applied, strict=strict, dry_run=dry_run)

    def merge(self, resource, namespace, name, patch, *, manager, strict, dry_run):
        """JSON merge patch (RFC 7386). What it changes is the manager's from then on."""
        with self._changed:
            before = self._found(resource, namespace, name)
            value = _merged(before.value, patch)
            key = self._key(resource, namespace, name)
            applied = _taken_over(before, value, f"{manager} (update)")
            return self._store(resource, key, before, value, applied, strict=strict, dry_run=dry_run)

    def apply(self, resource, namespace, name, value, *, manager, force, strict, dry_run):
        """Server-side apply: what the manager applied before and leaves out now goes; other managers' fields
        are not changed without force. Lists belong to whoever applied them, whole.
        """
        with self._changed:
            key = self._key(resource, namespace, name)
            before = self._objects.get(key)
            if before is None:
                applied = {manager: copy.deepcopy(value)}
                return self._store(resource, key, None, value, applied, strict=strict, dry_run=dry_run)
            mine, others = _leaves(value), {k: v for k, v in before.applied.items() if k != manager}
            for other, theirs in others.items():
                owned = _leaves(theirs)
                clashes = [path for path in mine if path in owned and owned[path] != mine[path]]
                if clashes and not force:
                    paths = [".".join(path) for path in clashes]
                    causes = [
                        {
                            "reason": "FieldManagerConflict",
                            "field": f".{path}",
                            "message": f'conflict with "{other}"',
                        }
                        for path in paths
                    ]
                    raise RefusedError(
                        409,
                        "Conflict",
                        f'Apply failed with {len(paths)} conflict: conflict with "{other}": .{paths[0]}',
                        causes,
                    )
            new = copy.deepcopy(before.value)
            kept = {path for theirs in others.values() for path in _leaves(theirs)}
            for path in _leaves(before.applied.get(manager, {})):
                if path not in mine and path not in kept:
                    _remove(new, path)
            new = _merged(new, value)
            applied = {**others, manager: copy.deepcopy(value)}
            return self._store(resource, key, before, new, applied, strict=strict, dry_run=dry_run)

    def delete(self, resource, namespace, name):
        """Forget an object, and with a namespace all that is in it."""
        with self._changed:
            stored = self._found(resource, namespace, name)
            for key in list(self._objects):
                if resource.kind == "Namespace" and key[1] == name:
                    self._gone(key)
            self._gone(self._key(resource, namespace, name))
            if resource.kind == CRD_KIND:
                group = stored.value["spec"]["group"]
                plural = stored.value["spec"]["names"]["plural"]
                self.resources = [r for r in self.resources if (r.group, r.plural) != (group, plural)]
            return stored.value["metadata"]["uid"]

    def changes(self, resource, after_version, timeout_s):
        """Wait for events of a kind that are newer than a version; none after the time."""
        kind = (resource.api_version, resource.plural)

        def found():
            return [event for event in self.events if event[0] == kind and event[1] > after_version]

        with self._changed:
            self._changed.wait_for(lambda: self.closed or found(), timeout_s)
            return [(version, what, copy.deepcopy(value)) for _, version, what, value in found()]

    def _gone(self, key):
        stored = self._objects.pop(key)
        self.resource_version = next(self._versions)
        self._tell(key, "DELETED", stored.value)

    def _tell(self, key, what, value):
        self.events.append((key[0], self.resource_version, what, copy.deepcopy(value)))
        self._changed.notify_all()

    def _key(self, resource, namespace, name):
        place = namespace if resource.namespaced else None
        return (resource.api_version, resource.plural), place, name

    def _found(self, resource, namespace, name):
        try:
            return self._objects[self._key(resource, namespace, name)]
        except KeyError:
            raise RefusedError(404, "NotFound", f'{resource.plural} "{name}" not found') from None

    def _store(self, resource, key, before, value, applied, *, strict, dry_run):
        """Check and keep; the version moves only if something changed."""
        if resource.namespaced and (("v1", "namespaces"), None, key[1]) not in self._objects:
            raise RefusedError(404, "NotFound", f'namespaces "{key[1]}" not found')
        old = before.value if before else None
        value = self._checked(resource, value, old, strict=strict)
        value["metadata"] = self._metadata(value["metadata"], key, old)
        if old is not None:
            if value.get("spec") != old.get("spec"):
                value["metadata"]["generation"] += 1
            if value == old:
                if not dry_run:
                    self._objects[key] = Stored(value, applied)
                return copy.deepcopy(value)
        if dry_run:
            return value
        self.resource_version = next(self._versions)
        value["metadata"]["resourceVersion"] = str(self.resource_version)
        if resource.kind == CRD_KIND:
            self._register(value)
        self._objects[key] = Stored(value, applied)
        self._tell(key, "MODIFIED" if old else "ADDED", value)
        return copy.deepcopy(value)

    def _metadata(self, given, key, old):
        kept = (
            old["metadata"]
            if old
            else {
                "uid": str(uuid.uuid4()),
                "creationTimestamp": datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "generation": 1,
                "resourceVersion": str(self.resource_version),
            }
        )
        own = {name: kept[name] for name in ("uid", "creationTimestamp", "generation", "resourceVersion")}
        place = {} if key[1] is None else {"namespace": key[1]}
        return {**{k: v for k, v in given.items() if k != "managedFields"}, **place, **own}

    def _checked(self, resource, value, old, *, strict):
        schema = self._schemas.get((resource.api_version, resource.kind))
        if schema is None:
            if resource.kind != CRD_KIND:
                _check_built_in(resource, value)
            return copy.deepcopy(value)
        stored, findings = schema.check(value, old)
        if findings.unknown and strict:
            fields = ", ".join(f'unknown field "{path}"' for path in findings.unknown)
            raise RefusedError(400, "BadRequest", f"strict decoding error: {fields}")
        if findings.errors:
            causes = [
                {"reason": "FieldValueInvalid", "field": path, "message": text}
                for path, text in findings.errors
            ]
            raise RefusedError(
                422, "Invalid", f'{resource.kind} "{value["metadata"]["name"]}" is invalid', causes
            )
        return stored

    def _register(self, definition):
        """A CRD's kinds are there at once."""
        spec = definition["spec"]
        names = spec["names"]
        self._schemas |= schemas_of(definition)
        known = {(entry.api_version, entry.plural) for entry in self.resources}
        for version in spec["versions"]:
            api_version = f"{spec['group']}/{version['name']}"
            if version["served"] and (api_version, names["plural"]) not in known:
                self.resources.append(
                    Resource(
                        api_version,
                        names["kind"],
                        names["plural"],
                        namespaced=spec["scope"] == "Namespaced",
                        short_names=tuple(names.get("shortNames", ())),
                    )
                )
        ready = [
            {
                "type": kind,
                "status": "True",
                "reason": "Double",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for kind in ("NamesAccepted", "Established")
        ]
        definition["status"] = {"conditions": ready, "acceptedNames": names, "storedVersions": []}


def _check_built_in(resource, value):
    published = {name: entry for name, entry in value.items() if name != "status"}
    try:
        kubernetes_validate.validate(published, _SCHEMAS_OF, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        if "Additional properties" in error.message:
            raise RefusedError(400, "BadRequest", f"strict decoding error: {path}: {error.message}") from None
        causes = [{"reason": "FieldValueInvalid", "field": path, "message": error.message}]
        raise RefusedError(
            422, "Invalid", f'{resource.kind} "{value["metadata"]["name"]}" is invalid', causes
        ) from None


def _merged(target, patch):
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, dict) else {}
    for name, entry in patch.items():
        if entry is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), entry)
    return found


def _leaves(value, path=()):
    """Values that are no mappings, by path; identity is not owned."""
    if isinstance(value, dict) and (value or not path):
        return {
            found: leaf
            for name, entry in value.items()
            if (*path, name)
            not in {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
            for found, leaf in _leaves(entry, (*path, name)).items()
        }
    return {path: value}


def _taken_over(before, value, manager):
    """Who owns what after a change that was no apply: who changes a field takes it from the others."""
    old, new = _leaves(before.value), _leaves(value)
    changed = {path: leaf for path, leaf in new.items() if path not in old or old[path] != leaf}
    applied = copy.deepcopy(before.applied)
    for path, leaf in changed.items():
        for theirs in applied.values():
            _remove(theirs, path)
        nested = functools.reduce(lambda inner, name: {name: inner}, reversed(path), leaf)
        applied[manager] = _merged(applied.get(manager, {}), nested)
    return applied


def _remove(value, path):
    *parents, last = path
    for name in parents:
        value = value.get(name)
        if not isinstance(value, dict):
            return
    value.pop(last, None)
