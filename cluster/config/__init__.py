"""The configuration: one YAML file, validated, frozen, documented field by field."""

from cluster.config.load import ConfigError, check_config, load_config, parse_config
from cluster.config.root import TidemillConfig

__all__ = ["ConfigError", "TidemillConfig", "check_config", "load_config", "parse_config"]
