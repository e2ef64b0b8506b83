"""What is generated from the code and committed: event schemas, the merged OpenAPI document, policy.md and events.md.

``python -m chassis.golden`` writes them, ``--check`` says which differ from what the code gives and ends with 1.
A schema is only rewritten when the change adds: what breaks readers needs a ``.v2`` beside it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from chassis import matrix
from chassis.app import load
from contracts.events import FACTS, TOPICS
from contracts.policy import API, POLICY, Rule, Service, Who

ROOT = Path(__file__).parents[1]


def schemas() -> Iterator[tuple[Path, str]]:
    """A JSON Schema for each fact."""
    for name, fact in sorted(FACTS.items()):
        yield ROOT / "contracts" / "schemas" / f"{name}.json", _json(fact.model_json_schema())


def document(*services: Service) -> dict[str, Any]:
    """The OpenAPI document of some services, as the gateway offers them."""
    app = FastAPI(title="Hortus", version="1", description="Everything the gateway forwards. Problems are RFC 9457.")
    for service in services:
        app.include_router(load(service).router)
    made = app.openapi()
    made["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An access token, or an API key where the door takes one."},
        "certificate": {"type": "mutualTLS", "description": "A project, agent or job certificate, at the certificate port."},
    }
    for rule in POLICY.values():
        operation = made["paths"].get(API + rule.path.replace(":path}", "}"), {}).get(rule.method.lower())
        if operation is not None:  # that each row has its route is for another check to say
            operation["security"] = _shown(rule)
    return made


def _shown(rule: Rule) -> list[dict[str, list[str]]]:
    """What a caller of a door shows, as OpenAPI's security requirements: one of these; none where the door is open."""
    if Who.NOBODY in rule.who:
        return []
    if rule.who <= {Who.AGENT, Who.JOB}:
        return [{"certificate": []}]
    return [{"bearer": []}] if rule.session else [{"bearer": []}, {"certificate": []}]


def openapi() -> tuple[Path, str]:
    """The one OpenAPI document of all services, as the gateway serves it."""
    return ROOT / "contracts" / "openapi.json", _json(document(*Service))


def policy() -> tuple[Path, str]:
    """The policy as a page for people."""
    return ROOT / "docs" / "policy.md", matrix.page()


def events() -> tuple[Path, str]:
    """The event catalogue as tables for people."""
    lines = [
        "# The event catalogue",
        "",
        "What the services tell each other. Generated from `contracts/events.py`; Kafka's topics and access rights are made from the same file.",
        "*Authority* topics carry what decisions rest on: written in fenced transactions, with positions. *Text* topics carry names.",
        "",
        "| Topic | Said by | Heard by | Key | Partitions | Kept | Authority | Text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for topic in TOPICS.values():
        kept = "newest state of each" if topic.compacted else f"{topic.retention_ms // 86_400_000} days"
        name = f"{topic.name}-<instance>" if topic.per_instance else topic.name
        row = [f"`{name}`", str(topic.owner), ", ".join(map(str, topic.readers)) or "-", ":".join(topic.key), str(topic.partitions), kept]
        lines.append("| " + " | ".join([*row, "✔" if topic.authority else "", "✔" if topic.text else ""]) + " |")
    lines += ["", "## Facts", ""]
    for name, fact in FACTS.items():
        lines += [f"### `{name}` on `{fact.topic.name}`", "", (fact.__doc__ or "").strip(), "", "| Field | Type |", "|---|---|"]
        properties: dict[str, Any] = fact.model_json_schema()["properties"]
        lines += [f"| `{field}` | {_type(shape)} |" for field, shape in properties.items()]
        lines.append("")
    return ROOT / "docs" / "events.md", "\n".join(lines)


def breaking_changes(old: dict[str, Any], new: dict[str, Any], place: str = "") -> list[str]:
    """What a newer schema takes away from, or demands beyond, an older one; empty when it only adds."""
    found = []
    for name, shape in old.get("properties", {}).items():
        here = f"{place}{name}"
        if name not in new.get("properties", {}):
            found.append(f"{here} was removed")
        elif _shape(shape) != _shape(new["properties"][name]):
            found.append(f"{here} changed its type")
    found += [f"{place}{name} became required" for name in new.get("required", []) if name not in old.get("properties", {})]
    for name, shape in old.get("$defs", {}).items():
        found += breaking_changes(shape, new.get("$defs", {}).get(name, {}), f"{name}.")
        gone = set(shape.get("enum", [])) - set(new.get("$defs", {}).get(name, {}).get("enum", []))
        found += [f"{name} lost {value}" for value in sorted(map(str, gone))]
    return found


def _shape(shape: dict[str, Any]) -> Any:
    kept = {key: value for key, value in shape.items() if key not in ("title", "description", "default")}
    return json.dumps(kept, sort_keys=True)


def _type(shape: dict[str, Any]) -> str:
    if "$ref" in shape:
        return str(shape["$ref"].rpartition("/")[2])
    if "anyOf" in shape:
        return " or ".join(_type(part) for part in shape["anyOf"])
    if shape.get("type") == "array":
        return f"list of {_type(shape.get('items', {}))}"
    return str(shape.get("format") or shape.get("type") or "any")


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def generated() -> dict[Path, str]:
    """Every generated file with its content."""
    return dict([*schemas(), openapi(), policy(), events()])


def main() -> int:
    """Write or check the generated files."""
    parser = argparse.ArgumentParser(prog="python -m chassis.golden", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when a file differs")
    check = parser.parse_args().check
    files = generated()
    stale = sorted(path for path, content in files.items() if not path.exists() or path.read_text() != content)
    extra = sorted(set((ROOT / "contracts" / "schemas").glob("*.json")) - set(files))
    if check:
        for path in [*stale, *extra]:
            print(f"{path.relative_to(ROOT)} is not what the code gives: look at the change, then run `make contracts`", file=sys.stderr)  # noqa: T201
        return 1 if stale or extra else 0
    broken = [
        f"{path.name}: {what}"
        for path in stale
        if path.parent.name == "schemas" and path.exists()
        for what in breaking_changes(json.loads(path.read_text()), json.loads(files[path]))
    ]
    for what in broken:
        print(f"{what}: within .v1 change only adds; declare a .v2 beside it", file=sys.stderr)  # noqa: T201
    if broken:
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    for path in extra:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
