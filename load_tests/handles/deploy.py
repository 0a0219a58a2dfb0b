"""Adds the pipelines of handles to a running cluster under paths of their own, or takes them away again.

A module of its own, so that Ray pickles the pipeline by name and not by value. It connects with the
environment it is started in (`load_tests.bench` gives it the cluster's).
"""

import argparse
import os
from pathlib import Path

import ray
from ray import serve

from cluster.config import load_config
from cluster.config.pools import SimulatedEngine
from load_tests.handles.pipeline import application

PIPELINES = {"/handles": False, "/handles-optimised": True}
"""Route prefix of each pipeline, and whether Serve is optimised for throughput in it."""


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="The pipelines of deployment handles, on a running cluster.")
    parser.add_argument("--config", type=Path, required=True, help="the file the cluster was started with")
    parser.add_argument("--remove", action="store_true", help="take it away")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    pool = next(iter(config.pools.values()))
    if not isinstance(pool.engine, SimulatedEngine):
        parser.error(f"{options.config}: the first pool must have a simulated engine")
    ray.init(
        address=f"127.0.0.1:{config.local_cluster.gcs_port}",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd()))}},
    )
    if options.remove:
        for prefix in PIPELINES:
            serve.delete(prefix.strip("/"))
        return
    for prefix, optimised in PIPELINES.items():
        pipeline = application(
            pool.engine,
            model=pool.model,
            replicas=pool.replicas.start,
            cpus=pool.resources.cpus,
            optimised=optimised,
        )
        serve.run(pipeline, name=prefix.strip("/"), route_prefix=prefix)


if __name__ == "__main__":
    main()
