"""The worker extension of CPU engines that hand their KV cache over.

NIXL's progress thread polls without pause: its Python wrapper fixes the pause at 0. On a CPU engine that
burns the core the model computes on (measured: 90 % of it while idle). With a pause the thread still wakes
at once when data comes, because it waits in poll(2). Importing this module gives it one.
"""

from typing import Any

import nixl_cu12._api as nixl_api

from deployments.engine.worker_extension import CpuWorkerExtension

_NIXL: Any = nixl_api
PROGRESS_PAUSE_US = 10_000
"""How long NIXL's progress thread waits for an event before it looks around by itself."""


class _PatientConfig(_NIXL.nixlBind.nixlAgentConfig):  # type: ignore[misc]  # a compiled class
    """NIXL's agent configuration with a progress thread that waits."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, PROGRESS_PAUSE_US if name == "pthrDelay" else value)


class _PatientBindings:
    """NIXL's bindings with that configuration in place of their own."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings

    def __getattr__(self, name: str) -> Any:
        return _PatientConfig if name == "nixlAgentConfig" else getattr(self._bindings, name)


if not isinstance(_NIXL.nixlBind, _PatientBindings):
    _NIXL.nixlBind = _PatientBindings(_NIXL.nixlBind)


class NixlCpuWorkerExtension(CpuWorkerExtension):
    """As its parent, in a worker that talks NIXL."""
