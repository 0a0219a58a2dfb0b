"""Gives the tests every rendered folder, the kinds of Ray, and kubectl with an API server's double."""

import functools
import os
import subprocess

import kubernetes_validate.utils
import pytest

from operators.kubernetes.images import locked_versions
from tests.k8s import ray_kinds
from tests.k8s.api_http import ApiServer
from tests.k8s.crd_schema import schemas_of
from tests.k8s.folders import FOLDERS, KUBECTL, ROOT, built_objects, kuberay_definitions

# Reads the published schemas, megabytes of them, anew for every object otherwise.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


@pytest.fixture(params=sorted(FOLDERS))
def folder(request):
    """The name of every rendered folder in turn."""
    return request.param


@pytest.fixture
def objects(folder):
    return built_objects(folder)


@pytest.fixture(params=["written by hand", "of KubeRay"], scope="session")
def definitions(request):
    """KubeRay's kinds: always as written down here, and as KubeRay defines them where that is at hand."""
    return ray_kinds.definitions() if request.param == "written by hand" else kuberay_definitions()


@pytest.fixture(scope="session")
def schemas(definitions):
    return {key: schema for entry in definitions for key, schema in schemas_of(entry).items()}


@pytest.fixture(scope="session")
def versions():
    return locked_versions(ROOT)


@pytest.fixture
def kubectl(tmp_path):
    """Runs kubectl against a fresh double; also gives the double."""
    with ApiServer() as server:
        config = tmp_path / "kubeconfig"
        server.write_kubeconfig(config)
        environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(tmp_path)}

        def run(*arguments, check=True, stdin=None):
            done = subprocess.run(
                [KUBECTL, *map(str, arguments)],
                capture_output=True,
                text=True,
                input=stdin,
                env=environment,
                timeout=60,
                check=False,
            )
            assert not check or done.returncode == 0, done.stderr
            return done

        run.double = server.double
        yield run
