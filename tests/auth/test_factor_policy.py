"""What a group's policy asks for: which factors somebody has, the policy, and what is shown -> what comes of it."""

import asyncio
import itertools
from typing import Any

import pyotp
import pytest
from sqlalchemy import text

from services.auth import domain, repository
from services.auth.domain.factors import AFactorStays, Factor, Factors, Policy, Verdict
from tests.auth.factors import recovery_codes, register, shown, sign_in, under
from tests.auth.passkeys import Authenticator
from tests.auth.people import another_code, join, passing_by
from tests.world import World, administrator, reason

OPENS, REFUSED, ENROLS = Verdict.OPENS, Verdict.REFUSED, Verdict.ENROLS
NEVER = Factors(totp=False, passkeys=0, ever=False)
LOST = Factors(totp=False, passkeys=0, ever=True)
TOTP = Factors(totp=True, passkeys=0, ever=True)
PASSKEY = Factors(totp=False, passkeys=1, ever=True)
BOTH = Factors(totp=True, passkeys=2, ever=True)
EVERYBODY = {"never": NEVER, "lost": LOST, "totp": TOTP, "passkey": PASSKEY, "both": BOTH}

# What is shown: nothing, something wrong, or a factor that is right. Each line has its outcomes under optional, required, passkey.
TABLE = {
    ("never", "nothing"): (OPENS, ENROLS, ENROLS),
    ("never", "wrong"): (ENROLS, ENROLS, ENROLS),
    ("lost", "nothing"): (OPENS, REFUSED, REFUSED),
    ("lost", "wrong"): (REFUSED, REFUSED, REFUSED),
    ("lost", "recovery"): (OPENS, OPENS, OPENS),
    ("totp", "nothing"): (REFUSED, REFUSED, REFUSED),
    ("totp", "wrong"): (REFUSED, REFUSED, REFUSED),
    ("totp", "totp"): (OPENS, OPENS, ENROLS),
    ("totp", "recovery"): (OPENS, OPENS, OPENS),
    ("passkey", "nothing"): (REFUSED, REFUSED, REFUSED),
    ("passkey", "wrong"): (REFUSED, REFUSED, REFUSED),
    ("passkey", "passkey"): (OPENS, OPENS, OPENS),
    ("passkey", "recovery"): (OPENS, OPENS, OPENS),
    ("both", "nothing"): (REFUSED, REFUSED, REFUSED),
    ("both", "wrong"): (REFUSED, REFUSED, REFUSED),
    ("both", "totp"): (OPENS, OPENS, REFUSED),
    ("both", "passkey"): (OPENS, OPENS, OPENS),
    ("both", "recovery"): (OPENS, OPENS, OPENS),
}
CELLS = [(has, seen, policy, outcome) for (has, seen), outcomes in TABLE.items() for policy, outcome in zip(Policy, outcomes, strict=True)]


@pytest.mark.parametrize(("has", "seen", "policy", "outcome"), CELLS)
def test_each_state_and_policy_has_one_outcome(has: str, seen: str, policy: Policy, outcome: Verdict) -> None:
    factor = Factor(seen) if seen in set(Factor) else None
    assert domain.factors.verdict(policy, EVERYBODY[has], factor, tried=seen != "nothing") is outcome


@pytest.mark.parametrize(("has", "seen"), TABLE)
async def test_the_sign_in_obeys_each_line_of_the_table(world: World, has: str, seen: str) -> None:
    ada = await join(world)
    authenticator = Authenticator()
    await register(ada, authenticator)
    codes = await recovery_codes(ada)
    await under(ada, "optional")
    if not EVERYBODY[has].totp:
        await world.sql("UPDATE credentials SET totp_sealed = NULL, totp_at = NULL")
    if not EVERYBODY[has].passkeys:
        await world.sql("DELETE FROM passkeys")
    if not EVERYBODY[has].ever:
        await world.sql("DELETE FROM recovery_codes")
        await world.sql("UPDATE users SET factor_enrolled_at = NULL")
    for policy, code, outcome in zip(Policy, codes, TABLE[has, seen], strict=False):
        await world.sql("UPDATE groups SET factor_policy = :policy", policy=policy.value)
        shows: dict[str, dict[str, Any]] = {
            "nothing": {},
            "wrong": {"code": another_code(ada.totp)},
            "totp": {"code": await ada.new_code()},
            "passkey": {"passkey": await shown(world, authenticator)},
            "recovery": {"recovery_code": code},
        }
        answer = await sign_in(ada, **shows[seen])
        expected = {OPENS: (201, None), REFUSED: (401, "sign-in-refused"), ENROLS: (401, "factor-enrolment-needed")}[outcome]
        assert (answer.status_code, answer.headers.get("Hortus-Reason")) == expected, policy
        assert ("enrolment" in answer.json()) is (outcome is ENROLS)


def test_the_table_is_whole() -> None:
    possible = set(itertools.product(EVERYBODY, ["nothing", "wrong", *Factor]))
    cannot = {("never", "totp"), ("never", "passkey"), ("never", "recovery"), ("lost", "totp"), ("lost", "passkey")}
    cannot |= {("totp", "passkey"), ("passkey", "totp")}
    assert set(TABLE) == possible - cannot


@pytest.mark.parametrize(
    ("groups", "default", "policy"),
    [
        ([], "required", "required"),
        ([], "optional", "optional"),
        ([None, None], "passkey", "passkey"),
        (["optional"], "required", "optional"),
        (["optional", None], "passkey", "optional"),
        (["optional", "required"], "optional", "required"),
        (["required", "passkey", "optional"], "optional", "passkey"),
    ],
)
def test_the_strictest_group_that_has_a_say_wins(groups: list[str | None], default: str, policy: str) -> None:
    assert domain.factors.policy_of(groups, default) == policy


@pytest.mark.parametrize(
    ("factor", "enough"),
    [
        (None, {Policy.OPTIONAL}),
        ("totp", {Policy.OPTIONAL, Policy.REQUIRED}),
        ("passkey", set(Policy)),
        ("recovery", set(Policy)),
        ("something else", set()),
    ],
)
def test_what_is_enough_for_which_policy(factor: str | None, enough: set[Policy]) -> None:
    assert {policy for policy in Policy if domain.factors.satisfies(factor, policy)} == enough


@pytest.mark.parametrize(
    ("has", "enough"),
    [(NEVER, {Policy.OPTIONAL}), (LOST, {Policy.OPTIONAL}), (TOTP, {Policy.OPTIONAL, Policy.REQUIRED}), (PASSKEY, set(Policy))],
)
def test_what_remains_satisfies_the_policy(has: Factors, enough: set[Policy]) -> None:
    for policy in Policy:
        if policy in enough:
            domain.factors.demand_a_factor_stays(policy, has)
        else:
            with pytest.raises(AFactorStays):
                domain.factors.demand_a_factor_stays(policy, has)


async def test_a_group_tightens_what_its_people_have_to_show(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    await under(ada, "passkey")
    answer = await ada.sign_in()
    assert (answer.status_code, reason(answer)) == (401, "factor-enrolment-needed")
    assert (await bob.sign_in()).status_code == 201
    assert (await world.get("/users/me/factors", ada.actor())).json()["policy"] == "passkey"


async def test_who_came_to_need_a_passkey_sets_one_up_and_keeps_the_authenticator(world: World) -> None:
    ada = await join(world)
    await under(ada, "passkey")
    token = (await ada.sign_in()).json()["enrolment"]
    asked = (await world.post("/factor-enrolments/acceptance", json={"token": token})).json()["passkey"]
    authenticator = Authenticator()
    passkey = {"challenge": asked["challenge"], "credential": authenticator.make(asked["options"]), "name": "key ring"}
    assert (await world.post("/factor-enrolments/confirmation", json={"token": token, "passkey": passkey})).status_code == 200
    assert (await sign_in(ada, passkey=await shown(world, authenticator))).status_code == 201
    refused = await ada.sign_in()
    assert (refused.status_code, reason(refused)) == (401, "sign-in-refused")
    assert (await world.get("/users/me/factors", ada.actor())).json()["totp"] is not None


async def test_a_link_that_a_sign_in_gave_is_void_once_its_person_set_a_factor_up(world: World) -> None:
    ada = await join(world)
    await under(ada, "passkey")
    token = (await ada.sign_in()).json()["enrolment"]
    await register(ada, Authenticator())
    refused = await world.post("/factor-enrolments/acceptance", json={"token": token})
    assert (refused.status_code, reason(refused)) == (404, "link-not-open")


@pytest.mark.parametrize("kind", ["authenticator", "passkey"])
async def test_a_first_factor_that_was_set_up_in_a_session_is_no_more_to_be_had_by_the_password(world: World, kind: str) -> None:
    ada = await join(world)
    await under(ada, "optional")
    await world.sql("UPDATE credentials SET totp_sealed = NULL, totp_at = NULL")
    await world.sql("UPDATE users SET factor_enrolled_at = NULL")
    if kind == "passkey":
        await register(ada, Authenticator())
    else:
        async with passing_by(ada) as actor:
            secret = (await world.post("/users/me/totp", actor)).json()["totp_secret"]
            confirmed = await world.post("/users/me/totp/confirmation", actor, json={"code": pyotp.TOTP(secret).now()})
            assert confirmed.status_code == 200, confirmed.text
    await world.sql("UPDATE groups SET factor_policy = 'required'")
    assert reason(await sign_in(ada)) == "sign-in-refused"
    await world.sql("DELETE FROM passkeys")
    await world.sql("UPDATE credentials SET totp_sealed = NULL")
    assert reason(await sign_in(ada)) == "sign-in-refused"


async def test_a_sign_in_that_waits_for_an_account_asks_for_the_factor_that_it_gets_meanwhile(world: World) -> None:
    ada = await join(world)
    await under(ada, "optional")
    await world.sql("UPDATE credentials SET pending_totp_sealed = totp_sealed, totp_sealed = NULL")
    await world.sql("UPDATE users SET factor_enrolled_at = NULL")
    assert (await sign_in(ada)).status_code == 201
    async with world.work(administrator()) as uow:
        await repository.accounts.user(uow.session, ada.user_id, lock=True)
        coming = asyncio.create_task(sign_in(ada))
        await world.somebody_waits()
        await uow.session.execute(text("UPDATE credentials SET totp_sealed = pending_totp_sealed"))
    assert reason(await coming) == "sign-in-refused"
