"""Runs inside vLLM's worker process on CPUs (`--worker-extension-cls`)."""

import os

import deployments.engine.cpu_patience  # noqa: F401 - keeps the worker from spinning
from deployments.engine.adapter_copies import AdapterCopies


class CpuWorkerExtension(AdapterCopies):
    """Methods that vLLM adds to its worker. Importing this module also keeps the worker from spinning."""

    def settle_on_cores(self, cores: list[int]) -> list[int]:
        """Bind the calling (main) thread of the worker to cores; returns those it had.

        vLLM's NixlConnector moves it to the last core of the NUMA node, to keep KV loading off the compute
        threads. With one OpenMP thread the main thread *is* the compute thread, and two engines end up
        computing on the same core.
        """
        before = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores)
        return before
