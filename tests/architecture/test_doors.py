"""Rows of the policy and routes of the services balance, in both directions."""

import re

import pytest
from fastapi.routing import APIRoute

from chassis.app import load
from chassis.guard import action_of, rule_paths
from contracts.policy import POLICY, Action, Service, Who


def routes_of(service: Service) -> list[APIRoute]:
    return [route for route in load(service).router.routes if isinstance(route, APIRoute)]


@pytest.mark.parametrize("service", list(Service))
def test_every_route_has_exactly_one_row_and_every_row_one_route(service: Service) -> None:
    routes = {(method, route.path): action_of(route) for route in routes_of(service) for method in route.methods or ()}
    assert routes == rule_paths(service)


@pytest.mark.parametrize("service", list(Service))
def test_every_creating_or_changing_route_commits_through_the_chassis(service: Service) -> None:
    assert {type(route).__name__ for route in routes_of(service)} <= {"Door"}


@pytest.mark.parametrize("service", list(Service))
def test_every_list_is_paged(service: Service) -> None:
    lists = [route for route in routes_of(service) if route.methods == {"GET"} and not re.search(r"\{[^}]+\}$|/me$|/log$", route.path)]
    for route in lists:
        names = {parameter.name for parameter in route.dependant.query_params} | {
            parameter.name for sub in route.dependant.dependencies for parameter in sub.query_params
        }
        assert {"limit", "after"} <= names, route.path


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
