"""Each condition of the policy is checked by named rules of the service that owns the door, and by nobody else."""

import ast
import re
from collections import defaultdict

import pytest

from contracts.policy import POLICY, Action, Condition
from tests.architecture.test_rooms import ROOT

NAMED = re.compile(r"Condition\.([A-Z_]+)[:,]")


def checks() -> dict[tuple[str, Condition], set[str]]:
    """The functions of each service's domain whose docstring opens with a condition's name."""
    found: dict[tuple[str, Condition], set[str]] = defaultdict(set)
    for path in sorted((ROOT / "services").glob("*/domain.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (named := NAMED.match(ast.get_docstring(node) or "")):
                found[path.parent.name, Condition[named[1]]].add(node.name)
    return found


def called(service: str) -> set[str]:
    """The names that a service's own modules call, as ``domain.name`` or, inside the domain, by name."""
    found = set()
    for path in (ROOT / "services" / service).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "domain":
                    found.add(node.func.attr)
                elif isinstance(node.func, ast.Name) and path.stem == "domain":
                    found.add(node.func.id)
    return found


def test_each_condition_is_checked_by_the_service_whose_rows_name_it_and_by_no_other() -> None:
    wanted = {(rule.service.value, rule.when) for rule in POLICY.values() if rule.when is not None}
    assert set(checks()) == wanted


def test_each_condition_belongs_to_one_service_and_no_condition_is_unused() -> None:
    owners = defaultdict(set)
    for rule in POLICY.values():
        if rule.when is not None:
            owners[rule.when].add(rule.service)
    assert {condition: len(services) for condition, services in owners.items()} == dict.fromkeys(Condition, 1)


def references(service: str) -> dict[str, set[str]]:
    """For each function of a service's modules, by its bare name, the names that stand in it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "services" / service).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Attribute):
                        found[node.name].add(inner.attr)
                    elif isinstance(inner, ast.Name):
                        found[node.name].add(inner.id)
    return found


def doors(service: str) -> dict[Action, str]:
    """The function behind each action's door."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "services" / service / "routes.py").read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for decorator in node.decorator_list:
                for named in re.findall(r"may\(Action\.([A-Z_]+)\)", ast.unparse(decorator)):
                    found[Action[named]] = node.name
    return found


@pytest.mark.parametrize("action", [action for action, rule in POLICY.items() if rule.when is not None])
def test_the_door_of_each_row_with_a_condition_leads_to_its_check(action: Action) -> None:
    rule = POLICY[action]
    assert rule.when is not None
    service = rule.service.value
    steps, wanted = references(service), checks()[service, rule.when]
    seen: set[str] = set()
    ahead = {doors(service)[action]}
    while ahead:
        seen |= ahead
        ahead = set().union(*(steps[name] for name in ahead)) & set(steps) - seen
    assert wanted & seen, f"{action} never comes to {sorted(wanted)}"


def test_each_check_is_called() -> None:
    idle = {name for (service, _), names in checks().items() for name in names - called(service)}
    assert idle == set()
