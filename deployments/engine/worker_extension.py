"""Runs inside vLLM's worker processes (`--worker-extension-cls`) and mends two things there on CPUs.

1. NIXL's progress thread polls without pause: its Python wrapper fixes the pause at 0. On a CPU engine that
   burns the core the model computes on (measured: 90 % of it while idle). With a pause the thread still wakes
   at once when data comes, because it waits in poll(2).
2. vLLM's NixlConnector moves the worker's main thread to the last core of the NUMA node, to keep KV loading
   off the compute threads. With one OpenMP thread the main thread *is* the compute thread, and two engines
   end up computing on the same core.

Importing this module does the first; `settle_on_cores`, called over vLLM's collective RPC, the second.
"""

import os
from typing import Any

import nixl_cu12._api as nixl_api

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


class CpuWorkerExtension:
    """Methods that vLLM adds to its worker."""

    def settle_on_cores(self, cores: list[int]) -> list[int]:
        """Bind the calling (main) thread of the worker to cores; returns those it had."""
        before = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores)
        return before
