"""Every door at which members of projects read is asked whether its answers depend on other projects."""

from contracts.policy import POLICY, Action, Service, Who
from tests.ca import test_tenancy as ca
from tests.datasets import test_tenancy as datasets
from tests.jobs import test_tenancy as jobs
from tests.projects import test_tenancy as projects
from tests.search import test_tenancy as search

ASKED: dict[Service, set[Action]] = {
    Service.CA: ca.DOORS,
    Service.DATASETS: datasets.DOORS,
    Service.JOBS: jobs.DOORS,
    Service.PROJECTS: projects.DOORS,
    Service.SEARCH: search.DOORS,
}
OF_PROJECTS = {Who.SIGNED_IN, Who.DATA_OWNER, Who.DATA_SCIENTIST}


def test_every_door_at_which_members_read_is_asked() -> None:
    reads = {
        service: {action for action, rule in POLICY.items() if rule.service is service and rule.method == "GET" and rule.who & OF_PROJECTS}
        for service in ASKED
    }
    assert reads == ASKED


def test_no_other_service_answers_members_of_a_project_about_it() -> None:
    inside = {rule.service for rule in POLICY.values() if "{project_id}" in rule.path}
    assert inside <= set(ASKED)
