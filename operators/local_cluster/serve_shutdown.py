"""Shuts Serve down in a process of its own: `python -m operators.local_cluster.serve_shutdown ADDRESS`.

Connecting to a cluster that is half dead can block for good; a process can be given up.
"""

import sys

import ray
from ray import serve


def main() -> None:
    """Connect to the address given and end every Serve application."""
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False, configure_logging=False)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
