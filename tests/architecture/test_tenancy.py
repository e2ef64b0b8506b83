"""Every door at which members of projects stand is asked whether its answers depend on other projects."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.policy import API, POLICY, SERVICE, Action, Service, Who
from tests.auth import test_tenancy as auth
from tests.ca import test_tenancy as ca
from tests.datasets import test_tenancy as datasets
from tests.jobs import test_tenancy as jobs
from tests.projects import test_tenancy as projects
from tests.search import test_tenancy as search

ASKED: dict[Service, set[Action]] = {
    Service.CA: ca.DOORS | set(ca.CHANGES),
    Service.DATASETS: datasets.DOORS | set(datasets.CHANGES),
    Service.JOBS: jobs.DOORS | set(jobs.CHANGES),
    Service.PROJECTS: projects.DOORS | projects.CHANGED,
    Service.SEARCH: search.DOORS,
}
NOT_ASKED = {Action.PROJECT_CREATE: "nothing of a project is named but a name that is new, and the answer tells when it is taken"}
IN_BODIES = auth.IN_BODIES | datasets.IN_BODIES | jobs.IN_BODIES
OF_PROJECTS = {Who.SIGNED_IN, Who.DATA_OWNER, Who.DATA_SCIENTIST}
DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[2] / "contracts/openapi.json").read_text())


def test_every_door_at_which_members_stand_is_asked() -> None:
    doors = {
        service: {action for action, rule in POLICY.items() if rule.service is service and rule.who & OF_PROJECTS} - set(NOT_ASKED)
        for service in ASKED
    }
    assert doors == ASKED


def test_every_id_that_somebody_puts_in_a_body_is_asked() -> None:
    named = set()
    for action, rule in POLICY.items():
        if rule.who == SERVICE:  # among themselves, and no part of the API
            continue
        operation = DOCUMENT["paths"][API + rule.path.replace(":path}", "}")][rule.method.lower()]
        named |= {(action, field) for field, schema in fields(operation.get("requestBody", {})) if '"uuid"' in json.dumps(schema)}
    assert named == IN_BODIES


def test_no_other_service_answers_members_of_a_project_about_it() -> None:
    inside = {rule.service for rule in POLICY.values() if "{project_id}" in rule.path}
    assert inside <= set(ASKED)


def fields(schema: Any) -> Iterator[tuple[str, Any]]:
    """The named fields of a body, at any depth."""
    if isinstance(schema, list):
        for each in schema:
            yield from fields(each)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            yield from fields(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
        yield from schema.get("properties", {}).items()
        for each in schema.values():
            yield from fields(each)
