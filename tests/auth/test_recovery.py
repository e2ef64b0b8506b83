"""Recovery codes: ten, each once."""

import asyncio
import json
import re

from services.auth import domain
from tests.auth.factors import letters, recovery_codes, sign_in
from tests.auth.people import join, present
from tests.world import World, person, reason

FORM = re.compile(r"[A-Z2-7]{5}-[A-Z2-7]{5}")


async def test_ten_codes_are_shown_once_and_kept_as_keyed_hashes(world: World) -> None:
    ada = await present(await join(world))
    await world.recorded()
    answer = await world.post("/users/me/recovery-codes", ada.actor(), key="k")
    assert answer.status_code == 201
    codes = answer.json()["codes"]
    assert len(set(codes)) == 10
    assert all(FORM.fullmatch(code) for code in codes)
    again = await world.post("/users/me/recovery-codes", ada.actor(), key="k")
    assert (again.status_code, reason(again)) == (409, "answer-was-secret")
    rows = await world.sql("SELECT code_hash FROM recovery_codes WHERE user_id = :id", id=ada.user_id)
    assert {len(row[0]) for row in rows} == {32}
    (record,) = await world.recorded()
    assert (record["action"], record["resource"]) == ("recovery_codes.create", {"user_id": str(ada.user_id), "factor": "recovery"})
    assert not any(code in json.dumps(record) for code in codes)
    assert (await world.get("/users/me/factors", ada.actor())).json()["recovery_codes_left"] == 10


async def test_a_code_opens_a_session_once_and_the_answer_says_how_many_are_left(world: World) -> None:
    ada = await join(world)
    code = (await recovery_codes(ada))[0]
    assert (await sign_in(ada, code=await ada.new_code())).json()["recovery_codes_left"] is None
    answer = await sign_in(ada, recovery_code=code)
    assert (answer.status_code, answer.json()["recovery_codes_left"]) == (201, 9)
    again = await sign_in(ada, recovery_code=code)
    assert (again.status_code, reason(again)) == (401, "sign-in-refused")
    methods = {session["method"] for session in (await world.get("/sessions", ada.actor())).json()["items"]}
    assert methods == {"password+totp", "password+recovery"}


async def test_a_code_can_be_typed_in_small_letters_and_without_its_dash(world: World) -> None:
    ada = await join(world)
    first, second, *_ = await recovery_codes(ada)
    assert (await sign_in(ada, recovery_code=first.lower().replace("-", ""))).status_code == 201
    assert (await sign_in(ada, recovery_code=second.replace("-", " "))).status_code == 201


async def test_of_two_requests_with_one_code_one_wins(world: World) -> None:
    ada = await join(world)
    code = (await recovery_codes(ada))[0]
    session = (await ada.sign_in()).json()["session_id"]
    answers = await asyncio.gather(
        sign_in(ada, recovery_code=code),
        sign_in(ada, recovery_code=code),
        world.post("/sessions/current/factor", ada.actor(session_id=session), json={"recovery_code": code}),
    )
    assert sorted(answer.status_code for answer in answers)[1:] == [401, 401]


async def test_new_codes_replace_the_old_ones(world: World) -> None:
    ada = await join(world)
    old = await recovery_codes(ada)
    new = await recovery_codes(ada)
    assert not set(old) & set(new)
    assert (await sign_in(ada, recovery_code=old[0])).status_code == 401
    assert (await sign_in(ada, recovery_code=new[0])).status_code == 201


async def test_a_code_is_for_one_account_and_needs_its_password(world: World) -> None:
    ada, bob = await join(world), await join(world, "bob@example.org")
    code = (await recovery_codes(ada))[0]
    assert (await sign_in(bob, recovery_code=code)).status_code == 401
    wrong = {"username": ada.username, "password": "another horse battery", "recovery_code": code}
    assert (await world.post("/sessions", json=wrong)).status_code == 401
    assert (await sign_in(ada, recovery_code=code)).status_code == 201


async def test_the_use_of_a_code_is_told_by_letter(world: World, mailed: World) -> None:
    ada = await join(world)
    ada.world = mailed
    code = (await recovery_codes(ada))[0]
    made = (await letters(mailed))[-1]
    assert "new recovery codes were made" in made["text"]
    assert code not in made["text"]
    await sign_in(ada, recovery_code=code)
    (used,) = await letters(mailed)
    assert (used["address"], "9 are left" in used["text"], code in used["text"]) == ("ada@example.org", True, False)


async def test_making_codes_needs_a_fresh_factor(world: World) -> None:
    answer = await world.post("/users/me/recovery-codes", person(factor_fresh=False))
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")


async def test_what_is_no_recovery_code_is_no_request(world: World) -> None:
    ada = await join(world)
    for code in ("", "AAAAA", "AAAAA-AAAA1", "AAAAAA-AAAA", "AAAAA--AAAAA", "AAAAA-AAAAA\n"):
        assert (await sign_in(ada, recovery_code=code)).status_code == 422


def test_a_code_holds_fifty_bits() -> None:
    assert domain.factors.recovery_code(b"\x00" * 7) == "AAAAA-AAAAA"
    assert domain.factors.recovery_code(b"\xff" * 7) == "77777-77777"
    singles = {domain.factors.recovery_code((1 << bit).to_bytes(7, "big")) for bit in range(6, 56)}
    assert len(singles) == 50
    assert domain.factors.normal_recovery_code("abcde fghij") == domain.factors.normal_recovery_code("ABCDE-FGHIJ") == "ABCDEFGHIJ"
