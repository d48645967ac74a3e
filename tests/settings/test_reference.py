"""The reference and the schema tell of every key, and docs/ holds what they say now."""

from pathlib import Path

import pytest

from paddock.core import variables
from paddock.settings import reference, schema, shapes

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "fresh"), [("configuration.md", reference()), ("variables.md", variables.reference())]
)
def test_a_page_of_docs_is_what_the_code_says(page, fresh):
    assert (DOCS / page).read_text(encoding="utf-8") == fresh


@pytest.mark.parametrize("kind", shapes.ITEMS)
def test_each_item_and_each_of_its_keys_is_explained(kind):
    text = reference()
    assert shapes.ITEMS[kind].__doc__
    section = text.split(f"\n## {kind}\n")[1].split("\n## ")[0]
    for name, field in shapes.ITEMS[kind].model_fields.items():
        assert field.description, name
        assert f"| `{field.alias or name}" in section


def test_defaults_are_spelled_as_in_the_file():
    text = reference()
    assert "| `keep.runs` | `30d` |" in text
    assert "| `sizes.log` | `64MiB` |" in text
    assert "| `sizes.files` | `10000` |" in text
    assert "| `ssh.host-key` | required |" in text
    assert "| `trusted` | `false` |" in text
    assert "| `machines[].name` | required |" in text
    assert "| `recheck` | `[^recheck$]` |" in text


def test_the_schema_knows_every_item_and_refuses_unknown_keys():
    made = schema()
    kinds = [next(iter(item["properties"])) for item in made["items"]["oneOf"]]
    assert kinds == list(shapes.ITEMS)
    assert made["$defs"]["job"]["additionalProperties"] is False
    assert "min-ready" in made["$defs"]["environment"]["properties"]
    assert made["$defs"]["job"]["properties"]["limit"]["pattern"] == "^[0-9]+[smhd]$"


def test_each_reference_within_the_schema_leads_somewhere():
    made = schema()

    def references(value):
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for inside in value.values():
                yield from references(inside)
        elif isinstance(value, list):
            for inside in value:
                yield from references(inside)

    found = set(references(made))
    assert found
    assert {name.removeprefix("#/$defs/") for name in found} <= set(made["$defs"])
