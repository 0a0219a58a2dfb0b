"""Reads a configuration for a command: what is wrong with it becomes one error with all its lines."""

from pathlib import Path

from cluster.config import ConfigError, TidemillConfig, load_config
from operators.cli.console import CliError


def read_config(path: Path) -> TidemillConfig:
    """The configuration in a file.

    Raises:
        CliError: it cannot be used; the details are the lines that say why.
    """
    try:
        return load_config(path)
    except ConfigError as error:
        raise config_refused(error) from error


def config_refused(error: ConfigError) -> CliError:
    """The error of a command whose configuration cannot be used."""
    first, *rest = str(error).splitlines()
    return CliError(first, exit_code=2, details=tuple(line.strip() for line in rest))
