"""Deploys the Serve applications in a process of its own: `python -m operators.cli.deployer`.

Ray installs signal handlers, starts threads and prints; `tidemill up` has to stay small and in command of
Ctrl-C. The order comes as one JSON object on standard input (it holds the admin key, which must not stand on
a command line), the progress goes out as one JSON object per line. Everything deployed outlives this process.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config import TidemillConfig
from deployments.app import deploy
from operators.pager.actor import start_coordinator
from operators.provisioner.actor import start_provisioner


def carry_out(work: Callable[[dict[str, Any], Callable[[str], None]], Any]) -> int:
    """Do what is ordered on standard input, and tell of it on standard output.

    Args:
        work: takes the order and whom to tell of progress; what it returns is told at the end.

    Returns:
        The exit status.
    """
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints goes to the log, not between the events

    def tell(**event: Any) -> None:
        print(json.dumps(event), file=events, flush=True)

    try:
        done = work(json.load(sys.stdin), lambda text: tell(progress=text))
    except Exception as error:  # noqa: BLE001 - every failure becomes one line for the person who waits
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        tell(error=lines[0] if lines else type(error).__name__)
        return 1
    tell(done=done)
    return 0


def _deploy(order: dict[str, Any], progress: Callable[[str], None]) -> None:
    config, state_dir = TidemillConfig.model_validate(order["config"]), Path(order["state_dir"])
    deploy(
        config,
        cluster_address=order["cluster_address"],
        state_dir=state_dir,
        weights=order["weights"],
        admin_key=order["admin_key"],
        progress=progress,
        own_cluster=True,
    )
    progress("starting the fleet provisioner")
    start_provisioner(config, state_dir)
    start_coordinator(config, state_dir)


if __name__ == "__main__":
    sys.exit(carry_out(_deploy))
