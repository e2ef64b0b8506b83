"""Active Directory as Samba speaks it: sign-ins by either name, nested groups by its own rule, disabled accounts, object ids."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from contracts.events import User
from services.auth.service import directory as following
from tests.auth import samba
from tests.auth.samba import DOMAIN, PASSWORD, REALM, Samba
from tests.auth.test_directory import enrol, make_group, row, show
from tests.world import World, Worlds, reason


@pytest.fixture(scope="module")
def domain_controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samba]:
    with samba.running(tmp_path_factory.mktemp("samba")) as running:
        yield running


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], domain_controller: Samba, tmp_path: Path) -> World:
    password = tmp_path / "looking"
    password.write_text(PASSWORD)
    values = {
        "name": "domain",
        "urls": ["ldaps://127.0.0.1"],
        "trust_file": str(domain_controller.trust),
        "account": f"hortus@{REALM}",
        "password_file": str(password),
        "people_base": f"cn=Users,{DOMAIN}",
        "people_filter": "(&(objectCategory=person)(objectClass=user))",
        "login_attributes": ["sAMAccountName", "userPrincipalName", "mail"],
        "id_attribute": "objectGUID",
        "group_base": DOMAIN,
        "nested": True,
        "active_directory": True,
    }
    file = tmp_path / "ldap.json"
    file.write_text(json.dumps(values))
    world = await worlds.open("auth", **settings, ldap_file=file)
    source = world.runtime.extra["tools"].directory
    source._threads = domain_controller.threads(2)
    return world


async def test_somebody_of_an_active_directory_signs_in_and_leaves(world: World, domain_controller: Samba) -> None:
    await make_group(world, "everybody", f"CN=everybody,CN=Users,{DOMAIN.upper()}")
    ada = await enrol(world, "ada", PASSWORD)
    for name in ("ADA", f"ada@{REALM}", "ada@example.org"):
        assert (await ada.sign_in(username=name)).status_code == 201
    user = await row(world, ada.user_id)
    assert (user.groups, user.provider, str(UUID(user.external_id))) == (["everybody"], "domain", user.external_id)
    for name, password in (("ada", "Wrong.Horse.1"), ("bob", PASSWORD), ("nobody", PASSWORD), ("*", PASSWORD), ("ADT\\ada", PASSWORD)):
        assert reason(await show(world, name, password)) == "sign-in-refused"
    tools = world.runtime.extra["tools"]
    await following.sync(tools, tools.directory)
    assert (await row(world, ada.user_id)).status == "active"
    await world.said()
    domain_controller.tool("group", "removemembers", "everybody", "staff")
    await following.sync(tools, tools.directory)
    assert [fact.groups for fact in await world.said() if isinstance(fact, User)] == [frozenset()]
    domain_controller.tool("user", "disable", "ada")
    await following.sync(tools, tools.directory)
    assert (await row(world, ada.user_id)).status == "deactivated"
    assert reason(await ada.sign_in()) == "sign-in-refused"
