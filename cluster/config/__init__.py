"""The configuration: one YAML file, validated, frozen, documented field by field."""

from cluster.config.load import ConfigError, load_config, parse_config
from cluster.config.root import TidemillConfig

__all__ = ["ConfigError", "TidemillConfig", "load_config", "parse_config"]
