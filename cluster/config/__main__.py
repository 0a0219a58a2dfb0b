"""Prints the JSON schema of the configuration: `python -m cluster.config > docs/config.schema.json`."""

import json

from cluster.config.root import TidemillConfig


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(TidemillConfig.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
