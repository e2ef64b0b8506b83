"""What is generated is what is committed, and facts change only by adding."""

import json

import pytest

from chassis.golden import ROOT, breaking_changes, generated


def test_generated_files_are_what_the_code_gives() -> None:
    stale = [str(path.relative_to(ROOT)) for path, content in generated().items() if not path.exists() or path.read_text() != content]
    assert stale == [], "look at the change, then run `make contracts`"


def schema() -> dict[str, object]:
    text = (ROOT / "contracts" / "schemas" / "job.v1.json").read_text()
    loaded: dict[str, object] = json.loads(text)
    return loaded


def test_an_added_optional_field_breaks_nobody() -> None:
    new = json.loads(json.dumps(schema()))
    new["properties"]["note"] = {"type": "string", "default": ""}
    assert breaking_changes(schema(), new) == []


@pytest.mark.parametrize("damage", ["removed", "type", "required", "value"])
def test_what_breaks_readers_is_named(damage: str) -> None:
    new = json.loads(json.dumps(schema()))
    if damage == "removed":
        del new["properties"]["name"]
    elif damage == "type":
        new["properties"]["name"] = {"type": "integer"}
    elif damage == "required":
        new["properties"]["note"] = {"type": "string"}
        new["required"].append("note")
    else:
        new["$defs"]["RunState"]["enum"].remove("failed")
    assert len(breaking_changes(schema(), new)) == 1
