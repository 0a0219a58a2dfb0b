"""docs/configuration.md is what the models say."""

import subprocess
import sys

from cluster.config.root import TidemillConfig


def test_the_committed_page_is_the_generated_one(root):
    printed = subprocess.run(
        [sys.executable, "-m", "docs.generate_configuration"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    committed = (root / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert committed == printed, "run: python -m docs.generate_configuration > docs/configuration.md"


def test_every_field_of_every_section_is_there(root):
    page = (root / "docs" / "configuration.md").read_text(encoding="utf-8")
    schema = TidemillConfig.model_json_schema()
    for section in (schema, *(found for found in schema["$defs"].values() if "properties" in found)):
        for name in section["properties"]:
            assert f"\n| `{name}` |" in page
    # a section that stands at several places has a heading for each
    assert page.count("\n## ") >= 1 + sum("properties" in found for found in schema["$defs"].values())
