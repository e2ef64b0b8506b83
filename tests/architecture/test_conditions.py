"""Each condition of the policy is checked by named rules of the service that owns the door, and by nobody else."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from contracts.policy import POLICY, Action, Condition, Service
from tests.architecture.test_rooms import ROOT

NAMED = re.compile(r"Condition\.([A-Z_]+)[:,]")


def room(service: str, name: str) -> list[Path]:
    """The modules of a room: one file, or a folder split by what it is about."""
    home = ROOT / "services" / service
    return sorted([*home.glob(f"{name}.py"), *home.glob(f"{name}/*.py")])


def modules(service: str) -> list[Path]:
    """All modules of a service's rooms."""
    home = ROOT / "services" / service
    return sorted([*home.glob("*.py"), *(path for path in home.glob("*/*.py") if path.parent.name != "migrations")])


@cache
def checks() -> dict[tuple[str, Condition], set[str]]:
    """The functions of each service's domain whose docstring opens with a condition's name."""
    found: dict[tuple[str, Condition], set[str]] = defaultdict(set)
    for service in Service:
        for path in room(service, "domain"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and (named := NAMED.match(ast.get_docstring(node) or "")):
                    found[service.value, Condition[named[1]]].add(node.name)
    return found


@cache
def called(service: str) -> set[str]:
    """The names that a service's own modules call, as ``domain.name``, ``domain.part.name`` or, inside the domain, by name."""
    found = set()
    inside = room(service, "domain")
    for path in modules(service):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).split(".")[0] == "domain":
                    found.add(node.func.attr)
                elif isinstance(node.func, ast.Name) and path in inside:
                    found.add(node.func.id)
    return found


def test_each_condition_is_checked_by_the_service_whose_rows_name_it_and_by_no_other() -> None:
    wanted = {(rule.service.value, condition) for rule in POLICY.values() for condition in rule.when}
    assert set(checks()) == wanted


def test_each_condition_belongs_to_one_service_and_no_condition_is_unused() -> None:
    owners = defaultdict(set)
    for rule in POLICY.values():
        for condition in rule.when:
            owners[condition].add(rule.service)
    assert {condition: len(services) for condition, services in owners.items()} == dict.fromkeys(Condition, 1)


@cache
def references(service: str) -> dict[str, set[str]]:
    """For each function of a service's modules, by its bare name, the names that stand in it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules(service):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Attribute):
                        found[node.name].add(inner.attr)
                    elif isinstance(inner, ast.Name):
                        found[node.name].add(inner.id)
    return found


@cache
def doors(service: str) -> dict[Action, str]:
    """The function behind each action's door."""
    found = {}
    for path in room(service, "routes"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for decorator in node.decorator_list:
                    for named in re.findall(r"may\(Action\.([A-Z_]+)\)", ast.unparse(decorator)):
                        found[Action[named]] = node.name
    return found


@pytest.mark.parametrize(("action", "condition"), [(action, condition) for action, rule in POLICY.items() for condition in rule.when])
def test_the_door_of_each_row_with_a_condition_leads_to_its_check(action: Action, condition: Condition) -> None:
    service = POLICY[action].service.value
    steps, wanted = references(service), checks()[service, condition]
    seen: set[str] = set()
    ahead = {doors(service)[action]}
    while ahead:
        seen |= ahead
        ahead = set().union(*(steps[name] for name in ahead)) & set(steps) - seen
    assert wanted & seen, f"{action} never comes to {sorted(wanted)}"


def test_each_check_is_called() -> None:
    idle = {name for (service, _), names in checks().items() for name in names - called(service)}
    assert idle == set()
