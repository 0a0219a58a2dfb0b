"""`tidemill replay LOG`: takes logged decisions again, the provisioner's or a router's."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.config import ConfigError, TidemillConfig, load_config
from cluster.policy.provisioning.policies import POLICIES
from cluster.replay import DecisionLogError, read_log, redecide
from cluster.replay.provisioning import redecide_log
from cluster.simulation.solver_output import solver_output_on_stderr
from operators.cli.configuration import config_refused
from operators.cli.console import CliError

_SHOWN = 10
_DIFFERENCE_CHARACTERS = 300


def replay(log: Path, *, config_path: Path | None, policy: str | None, json_output: bool) -> int:
    """Take every decision of a log again and compare.

    Returns:
        0 if all came out equal, 1 otherwise.

    Raises:
        CliError: the log cannot be read, or what it needs is missing.
    """
    try:
        with log.open(encoding="utf-8") as lines:
            first = lines.readline()
            lines.seek(0)
            if '"tidemill_provisioning"' in first:
                with solver_output_on_stderr():
                    found = list(_provisioning(lines, policy))
            else:
                if policy is not None:
                    raise CliError("--policy is for the provisioner's log", exit_code=2)
                config = load_config(config_path) if config_path else None
                found = list(_requests(lines, config))
    except OSError as error:
        raise CliError(f"{log}: {error.strerror or error}", exit_code=2) from error
    except UnicodeDecodeError as error:
        raise CliError(f"{log}: not UTF-8 text", exit_code=2) from error
    except ConfigError as error:
        raise config_refused(error) from error
    except DecisionLogError as error:
        raise CliError(f"{log}: {error}", exit_code=2) from error
    different = [entry for entry in found if entry["difference"]]
    if json_output:
        print(json.dumps({"decisions": len(found), "different": len(different), "differences": different}))
    else:
        print(f"{len(found)} decisions taken again, {len(different)} came out different")
        for entry in different[:_SHOWN]:
            print(f"  line {entry['line']}: {entry['difference'][:_DIFFERENCE_CHARACTERS]}")
        if len(different) > _SHOWN:
            print(f"  … and {len(different) - _SHOWN} more")
    return 1 if different else 0


def _provisioning(lines: Any, policy: str | None) -> Iterator[dict[str, Any]]:
    if policy is not None and policy not in POLICIES:
        raise CliError(f"no policy {policy!r}; there are {', '.join(POLICIES)}", exit_code=2)
    for number, again in enumerate(redecide_log(lines, policy=policy)):
        if number and number % 1000 == 0 and sys.stderr.isatty():
            print(f"\r{number} decisions", end="", file=sys.stderr, flush=True)
        yield {"line": again.line, "at_s": again.observed_at_s, "difference": again.difference}


def _requests(lines: Any, config: TidemillConfig | None) -> Iterator[dict[str, Any]]:
    if config is None:
        raise CliError("a router's log is taken again with a configuration: give it with -c", exit_code=2)
    for number, record in enumerate(read_log(lines), start=1):
        differences = redecide(record, config.routing)
        text = "; ".join(f"{d.decision}.{d.field}: logged {d.logged}, now {d.redecided}" for d in differences)
        yield {"line": number, "at_s": record.at_wall_s, "difference": text or None}
