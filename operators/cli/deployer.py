"""Deploys the Serve applications in a process of its own: `python -m operators.cli.deployer`.

Ray installs signal handlers, starts threads and prints; `tidemill up` has to stay small and in command of
Ctrl-C. The order comes as one JSON object on standard input (it holds the admin key, which must not stand on
a command line), the progress goes out as one JSON object per line. Everything deployed outlives this process.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from cluster.config import TidemillConfig
from deployments.app import deploy
from operators.pager.actor import start_coordinator
from operators.provisioner.actor import start_provisioner


def main() -> int:
    """Carry out the order on standard input."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints goes to the log, not between the events
    order = json.load(sys.stdin)

    def tell(**event: str) -> None:
        print(json.dumps(event), file=events, flush=True)

    try:
        config = TidemillConfig.model_validate(order["config"])
        deploy(
            config,
            cluster_address=order["cluster_address"],
            state_dir=Path(order["state_dir"]),
            weights=order["weights"],
            admin_key=order["admin_key"],
            progress=lambda text: tell(progress=text),
        )
        tell(progress="starting the fleet provisioner")
        start_provisioner(config, Path(order["state_dir"]))
        start_coordinator(config, Path(order["state_dir"]))
    except Exception as error:  # noqa: BLE001 - every failure becomes one line for the person who waits
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        tell(error=lines[0] if lines else type(error).__name__)
        return 1
    tell(done="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
