"""Rows of the policy and routes of the services balance, in both directions."""

import inspect
import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from chassis.app import load, routes_in
from chassis.guard import Door, action_of
from contracts.policy import API, POLICY, Action, Service, Who


def routes_of(service: Service) -> list[APIRoute]:
    return list(routes_in(load(service).router))


def rule_paths(service: Service) -> dict[tuple[str, str], Action]:
    """The policy's doors of a service as (method, full path)."""
    return {(rule.method, API + rule.path): action for action, rule in POLICY.items() if rule.service is service}


@pytest.mark.parametrize("service", list(Service))
def test_every_route_has_exactly_one_row_and_every_row_one_route(service: Service) -> None:
    routes = {(method, route.path): action_of(route) for route in routes_of(service) for method in route.methods or ()}
    assert routes == rule_paths(service)


@pytest.mark.parametrize("service", list(Service))
def test_every_creating_or_changing_route_commits_through_the_chassis(service: Service) -> None:
    assert [route.path for route in routes_of(service) if not isinstance(route, Door)] == []


@pytest.mark.parametrize("service", list(Service))
def test_every_list_is_paged(service: Service) -> None:
    data = [route for route in routes_of(service) if route.methods == {"GET"} and type(route) is Door]  # not what browsers are shown
    lists = [route for route in data if not re.search(r"\{[^}]+\}$|/me$|/me/factors$|/oidc$|/sign-in$|/log$", route.path)]
    for route in lists:
        names = {parameter.name for parameter in route.dependant.query_params} | {
            parameter.name for sub in route.dependant.dependencies for parameter in sub.query_params
        }
        assert {"limit", "after"} <= names, route.path


@pytest.mark.parametrize("service", list(Service))
def test_nothing_that_a_door_depends_on_is_sent_to_a_thread(service: Service) -> None:
    """The framework does that to whatever is no coroutine, and a thread costs more than what these do."""
    for route in routes_of(service):
        ahead = [route.dependant]
        while ahead:
            needed = ahead.pop()
            assert inspect.iscoroutinefunction(needed.call), (route.path, needed.call)
            ahead += needed.dependencies


def test_every_action_has_a_row() -> None:
    assert set(POLICY) == set(Action)


def test_no_two_rows_share_a_door() -> None:
    doors = [(rule.method, re.sub(r"\{[^}]+\}", "{}", rule.path)) for rule in POLICY.values()]
    assert len(doors) == len(set(doors))


def test_whoever_is_let_in_by_a_project_role_names_the_project_in_the_path() -> None:
    for action, rule in POLICY.items():
        if rule.who & {Who.DATA_OWNER, Who.DATA_SCIENTIST}:
            assert "{project_id}" in rule.path, action
            assert rule.hides, action


def test_only_owners_and_jobs_reach_doors_that_carry_dataset_bytes() -> None:
    for action, rule in POLICY.items():
        if rule.carries_bytes:
            assert rule.who <= {Who.DATA_OWNER, Who.JOB}, action
            assert rule.when, action


@pytest.mark.parametrize("service", list(Service))
def test_of_a_body_with_a_secret_nothing_is_kept_for_repeated_requests(service: Service) -> None:
    app = FastAPI()
    app.include_router(load(service).router)
    document = app.openapi()
    told = {
        rule_paths(service)[(method.upper(), path)]
        for path, doors in document["paths"].items()
        for method, door in doors.items()
        if "requestBody" in door and holds_secret(document, door["requestBody"], set())
    }
    assert {action for action in told if not POLICY[action].secret} == set()
    assert service is not Service.AUTH or {Action.PASSWORD_CHANGE, Action.SESSION_STEP_UP, Action.SESSION_CREATE} <= told


def holds_secret(document: dict[str, Any], part: Any, seen: set[str]) -> bool:
    """Whether a schema, or one that it refers to, has a field that is a secret."""
    if isinstance(part, list):
        return any(holds_secret(document, each, seen) for each in part)
    if not isinstance(part, dict):
        return False
    named = part.get("$ref")
    if isinstance(named, str) and named not in seen:
        seen.add(named)
        return holds_secret(document, document["components"]["schemas"][named.rpartition("/")[2]], seen)
    return part.get("format") == "password" or any(holds_secret(document, each, seen) for each in part.values())
