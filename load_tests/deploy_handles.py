"""Adds the pipeline of handles to a running cluster under a path of its own, or takes it away again.

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
from load_tests.handle_pipeline import application

APPLICATION = "handle-pipeline"


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="The pipeline of deployment handles, on a running cluster.")
    parser.add_argument("--config", type=Path, required=True, help="the file the cluster was started with")
    parser.add_argument("--route-prefix", default="/handles", help="(%(default)s)")
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
        serve.delete(APPLICATION)
        return
    pipeline = application(
        pool.engine, model=pool.model, replicas=pool.replicas.start, cpus=pool.resources.cpus
    )
    serve.run(pipeline, name=APPLICATION, route_prefix=options.route_prefix)


if __name__ == "__main__":
    main()
