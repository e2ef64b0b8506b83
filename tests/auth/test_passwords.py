import json
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from contracts.events import ApiKey, Session
from contracts.roles import NOBODY, Actor
from services.auth import domain, repository
from services.auth.service import new_passwords
from tests.auth.people import PASSWORD, Account, begin, invite, join, present, refresh
from tests.world import World, Worlds, administrator, agent, person, reason

NEW = "seven green otters swim"


@pytest.fixture
async def mailing(worlds: Worlds, settings: dict[str, Any]) -> World:
    """Where mail is configured; nothing is sent, since no background work runs."""
    return await worlds.open("auth", **settings, smtp_url="smtps://localhost:1")


async def letters(world: World) -> list[dict[str, Any]]:
    """The letters that wait, opened."""
    safe = world.runtime.extra["tools"].vault
    rows = await world.sql("SELECT letter_id, sealed FROM letters ORDER BY letter_id")
    return [json.loads(safe.open_letter(row.sealed, row.letter_id)) for row in rows]


async def change(account: Account, session_id: UUID, **other: str) -> httpx2.Response:
    body = {"password": account.password, "new_password": NEW} | other
    return await account.world.post("/users/me/password", account.actor(session_id), json=body)


async def ask(world: World, name: str, source: str = "192.0.2.1") -> httpx2.Response:
    return await world.post("/password-resets", json={"name": name}, headers={"Hortus-Source": source})


async def answer_asks(world: World) -> None:
    await new_passwords.answer_asks(world.runtime.extra["tools"])


async def link_for(account: Account) -> str:
    """An administrator's link, where no mail is configured."""
    answer = await account.world.post(f"/users/{account.user_id}/password-reset", administrator())
    assert answer.status_code == 201, answer.text
    return str(answer.json()["link_token"])


async def accept(world: World, token: str, password: str = NEW) -> httpx2.Response:
    return await world.post("/password-resets/acceptance", json={"token": token, "password": password})


# How strong


@pytest.mark.parametrize(
    "password",
    ["aaaaaaaaaaaaaaaa", "password12345", "qwertyuiop123", "Hortus123456", "ada00000ada0", "ada@example.org", "abcdefghijkl", "1" * 128],
)
async def test_a_password_that_is_easy_to_guess_is_refused_with_a_sentence_that_does_not_hold_it(world: World, password: str) -> None:
    token = (await invite(world, "ada@example.org")).json()["invitation"]
    answer = await world.post("/invitations/acceptance", json={"token": token, "password": password})
    assert (answer.status_code, reason(answer)) == (422, "password-too-weak")
    assert answer.json()["detail"].endswith(".")
    assert password not in answer.text


@pytest.mark.parametrize("password", [PASSWORD, NEW, "xK9#mQ2$vL7!", "größere Äpfel fallen nie"])
def test_a_password_that_takes_many_guesses_is_taken(password: str) -> None:
    assert domain.passwords.weakness(password, ("ada00000", "ada@example.org")) is None


def test_words_that_others_would_try_for_a_person_make_a_password_weak() -> None:
    assert domain.passwords.weakness("vrzlkhptqwmx", ()) is None
    assert domain.passwords.weakness("vrzlkhptqwmx", ("vrzlkhptqwmx",)) is not None


@tried(max_examples=50)
@given(st.text(min_size=12, max_size=128))
def test_every_password_is_judged(password: str) -> None:
    assert domain.passwords.weakness(password, ("ada00000",)) in (None, *SENTENCES)


SENTENCES = {
    "Add another word or two. Uncommon words are better.",
    'Repeats like "aaa" are easy to guess.',
    'Repeats like "abcabcabc" are only slightly harder to guess than "abc".',
    "Sequences like abc or 6543 are easy to guess.",
    "Straight rows of keys are easy to guess.",
    "Short keyboard patterns are easy to guess.",
    "Recent years are easy to guess.",
    "Dates are often easy to guess.",
    "This is a top-10 common password.",
    "This is a top-100 common password.",
    "This is a very common password.",
    "This is similar to a commonly used password.",
    "A word by itself is easy to guess.",
    "Names and surnames by themselves are easy to guess.",
    "Common names and surnames are easy to guess.",
}


@pytest.mark.parametrize("password", ["4@8({[</3690!1|05$7+%2" * 6, "a" * 128, "qwertyuiop" * 12, "4@8({[<3690!1|0" + "x" * 100])
def test_no_password_keeps_the_judge_busy(password: str) -> None:
    began = time.process_time()
    domain.passwords.weakness(password[:128], ("ada00000", "ada@example.org"))
    assert time.process_time() - began < 1


# Changing it


async def test_a_person_changes_their_password_and_every_session_ends(mailing: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    session_id, token = await begin(ada)
    other, _ = await begin(ada)
    await world.said()
    await world.recorded()
    ada.world = mailing
    answer = await change(ada, session_id)
    assert (answer.status_code, answer.content) == (204, b"")
    said = await world.said()
    assert {(fact.session_id, fact.live) for fact in said if isinstance(fact, Session)} == {(session_id, False), (other, False)}
    assert (await refresh(world, token)).status_code == 401
    (record,) = await world.recorded()
    assert (record["action"], record["actor"]["username"]) == ("password.change", ada.username)
    assert NEW not in str(record)
    ((because,),) = await world.sql("SELECT DISTINCT ended_because FROM sessions")
    assert because == "password-changed"
    (letter,) = await letters(world)
    assert (letter["address"], letter["subject"]) == ("ada@example.org", "Your password for Hortus was changed")
    assert NEW not in letter["text"]
    assert (await ada.sign_in()).status_code == 401
    ada.password = NEW
    assert (await ada.sign_in()).status_code == 201


async def test_a_wrong_old_password_changes_nothing_and_is_counted(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    answers = [await change(ada, session_id, password="a wrong password") for _ in range(domain.patience.FREE_IN_SESSION)]
    assert {(answer.status_code, reason(answer)) for answer in answers} == {(422, "wrong-password")}
    waits = await change(ada, session_id)
    assert (waits.status_code, reason(waits)) == (429, "slow-down")
    another, _ = await begin(ada)
    assert (await change(ada, another)).status_code == 204, "another session of theirs does not wait"


@pytest.mark.parametrize(
    ("new", "slug"), [(PASSWORD, "password-unchanged"), ("aaaaaaaaaaaaaaaa", "password-too-weak"), ("short", "unprocessable")]
)
async def test_a_new_password_is_another_and_a_strong_one(world: World, new: str, slug: str) -> None:
    ada = await join(world)
    session_id, token = await begin(ada)
    answer = await change(ada, session_id, new_password=new)
    assert (answer.status_code, reason(answer)) == (422, slug)
    assert (await refresh(world, token)).status_code == 200


async def test_what_a_wrong_password_is_answered_does_not_depend_on_the_new_one(world: World) -> None:
    ada = await join(world)
    session_id, _ = await begin(ada)
    answers = [await change(ada, session_id, password="a wrong password", new_password=new) for new in (NEW, "aaaaaaaaaaaaaaaa")]
    assert [reason(answer) for answer in answers] == ["wrong-password", "wrong-password"]


async def test_changing_a_password_asks_for_a_fresh_factor_and_a_session(world: World) -> None:
    ada = await join(world)
    body = {"password": PASSWORD, "new_password": NEW}
    stale = await world.post("/users/me/password", person(ada.user_id, factor_fresh=False), json=body)
    assert (stale.status_code, reason(stale)) == (401, "factor-too-old")
    for actor, status in ((NOBODY, 401), (agent(), 403)):
        assert (await world.post("/users/me/password", actor, json=body)).status_code == status


async def test_a_password_that_is_kept_elsewhere_is_neither_changed_nor_reset_here(
    mailing: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    session_id, _ = await begin(ada)
    await world.sql("UPDATE users SET source = 'oidc', provider = 'p', external_id = 'x'")
    for answer in (await change(ada, session_id), await world.post(f"/users/{ada.user_id}/password-reset", administrator())):
        assert (answer.status_code, reason(answer)) == (409, "password-is-elsewhere")
    assert (await ask(mailing, ada.username)).status_code == 202
    await answer_asks(mailing)
    assert (await letters(world), await world.sql("SELECT 1 FROM links")) == ([], [])


# Forgetting it


async def test_who_asks_gets_a_letter_with_a_link_that_sets_a_password_once(
    mailing: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    session_id, token = await begin(ada)
    assert (await ask(mailing, " Ada@Example.ORG ")).status_code == 202
    await answer_asks(mailing)
    (letter,) = await letters(world)
    (link,) = [line for line in letter["text"].splitlines() if "#" in line]
    assert link.startswith("https://localhost:8443/password-reset#reset_")
    ((left,),) = await world.sql("SELECT expires_at - created_at FROM links")
    assert left.total_seconds() == 3600
    reset = link.rpartition("#")[2]
    await world.said()
    await world.recorded()
    assert (await accept(world, reset)).status_code == 204
    assert [(fact.session_id, fact.live) for fact in await world.said() if isinstance(fact, Session)] == [(session_id, False)]
    (record,) = await world.recorded()
    assert (record["action"], record["actor"]["username"]) == ("password_reset.accept", ada.username)
    assert (await refresh(world, token)).status_code == 401
    again = await accept(world, reset, NEW + " too")
    assert (again.status_code, reason(again)) == (404, "link-not-open")
    ada.password = NEW
    assert (await ada.sign_in()).status_code == 201, "the second factor stayed"


async def test_the_answer_and_the_work_are_the_same_for_every_name(mailing: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    await invite(world, "bob@example.org")
    seen = []
    for name in (ada.username, "nobody00", "nobody@example.org", "bob00000", "\u202e"):
        answer = await ask(mailing, name)
        rows = [(await world.sql(f"SELECT count(*) FROM {table}"))[0][0] for table in ("reset_asks", "links", "letters")]
        seen.append((answer.status_code, answer.content, sorted(answer.headers), rows[1:]))
    assert all(each == seen[0] for each in seen)
    assert rows == [5, 0, 0], "which name is whose is looked up afterwards"
    assert await world.recorded() != []
    await answer_asks(mailing)
    assert [letter["address"] for letter in await letters(world)] == ["ada@example.org"]
    assert await world.sql("SELECT 1 FROM reset_asks") == []


async def test_what_was_typed_waits_sealed(mailing: World) -> None:
    await ask(mailing, "my secret password")
    ((sealed,),) = await mailing.sql("SELECT sealed FROM reset_asks")
    assert b"secret" not in sealed


async def test_somebody_who_asks_for_another_without_end_sends_them_one_letter_in_ten_minutes(
    mailing: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    for number in range(5):
        await ask(mailing, ada.username, source=f"192.0.2.{number}")
        await answer_asks(mailing)
    assert len(await letters(world)) == 1
    await later(world, "11 min")
    await ask(mailing, "ada@example.org")
    await answer_asks(mailing)
    assert len(await letters(world)) == 2


async def later(world: World, time: str) -> None:
    await world.sql("UPDATE links SET created_at = created_at - CAST(:time AS text)::interval", time=time)
    await world.sql("UPDATE links SET expires_at = expires_at - CAST(:time AS text)::interval", time=time)


async def test_asking_voids_no_link_that_an_administrator_made(mailing: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    token = await link_for(ada)
    await later(world, "23 h 50 min")
    await ask(mailing, ada.username)
    await answer_asks(mailing)
    assert await letters(world) == []
    assert (await accept(world, token)).status_code == 204
    await link_for(ada)
    await later(world, "24 h 1 min")
    await ask(mailing, ada.username)
    await answer_asks(mailing)
    assert len([letter for letter in await letters(world) if "for 1 h" in letter["text"]]) == 1


async def test_beside_an_open_link_nobody_is_sent_more_than_five_a_day_and_without_one_there_is_always_one_more(
    mailing: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada, bob = await join(world), await join(world, "bob@example.org")
    most = 1 + domain.passwords.MOST_LINKS
    for number in range(most + 2):
        await ask(mailing, ada.username, source=f"192.0.2.{number}")
        await answer_asks(mailing)
        await later(world, "11 min" if number < most else "1 min")
    assert len(await letters(world)) == most
    await ask(mailing, bob.username)
    await answer_asks(mailing)
    assert len(await letters(world)) == most + 1, "others' places are their own"
    await later(world, "50 min")
    await ask(mailing, ada.username)
    await answer_asks(mailing)
    assert len(await letters(world)) == most + 2, "whoever used the places up keeps nobody from a link"
    await later(world, "11 min")
    await ask(mailing, ada.username)
    await answer_asks(mailing)
    assert len(await letters(world)) == most + 2
    await world.sql("UPDATE spent SET expires_at = expires_at - interval '24 h'")
    async with world.work() as uow:
        await repository.spent.prune(uow.session, uow.now)
    await ask(mailing, ada.username)
    await answer_asks(mailing)
    assert len(await letters(world)) == most + 3


async def test_a_password_that_was_reset_ends_the_api_keys_and_the_letter_says_so(
    mailing: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await present(await join(world))
    expires = (await world.now() + timedelta(days=1)).isoformat()
    made = await world.post("/keys", ada.actor(), json={"name": "nightly", "scopes": ["project.list"], "expires_at": expires})
    assert made.status_code == 201, made.text
    token = await link_for(ada)
    await world.said()
    assert (await accept(mailing, token)).status_code == 204
    assert [(fact.version, fact.live) for fact in await world.said() if isinstance(fact, ApiKey)] == [(2, False)]
    (letter,) = await letters(world)
    assert "sessions and API keys were ended" in letter["text"]


async def test_one_source_that_asks_without_end_is_not_told_and_fills_nothing(mailing: World) -> None:
    answers = [await ask(mailing, f"nobody{number:02}") for number in range(domain.patience.FREE_WISHES + 5)]
    assert {answer.status_code for answer in answers} == {202}
    assert len(await mailing.sql("SELECT 1 FROM reset_asks")) == domain.patience.FREE_WISHES
    await ask(mailing, "nobody00", source="198.51.100.7")
    assert len(await mailing.sql("SELECT 1 FROM reset_asks")) == domain.patience.FREE_WISHES + 1


async def test_only_so_many_wishes_wait(mailing: World) -> None:
    await mailing.sql("INSERT INTO reset_asks SELECT gen_random_uuid(), 'x', now() FROM generate_series(1, 1000)")
    assert (await ask(mailing, "ada00000")).status_code == 202
    assert (await mailing.sql("SELECT count(*) FROM reset_asks"))[0][0] == 1000


async def test_where_no_mail_is_configured_nothing_is_kept_of_who_asks(world: World) -> None:
    ada = await join(world)
    await world.recorded()
    assert (await ask(world, ada.username)).status_code == 202
    assert await world.sql("SELECT 1 FROM reset_asks") == []
    assert await world.recorded() == []


# Links


async def test_an_administrator_gives_a_link_that_is_shown_once_and_recorded(world: World) -> None:
    ada = await join(world)
    await world.recorded()
    answer = await world.post(f"/users/{ada.user_id}/password-reset", administrator(), key="k")
    body = answer.json()
    assert (body["user_id"], body["mailed"]) == (str(ada.user_id), False)
    again = await world.post(f"/users/{ada.user_id}/password-reset", administrator(), key="k2")
    (record, _) = await world.recorded()
    assert (record["action"], record["resource"]) == ("user.password_reset", {"user_id": str(ada.user_id)})
    assert body["link_token"] not in str(record)
    assert (await accept(world, body["link_token"])).status_code == 404, "the second link made the first one void"
    assert (await accept(world, again.json()["link_token"])).status_code == 204


async def test_an_administrators_link_is_mailed_where_mail_is_configured(mailing: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("auth", beside=mailing, **settings)
    ada = await join(world)
    answer = (await mailing.post(f"/users/{ada.user_id}/password-reset", administrator())).json()
    assert (answer["link_token"], answer["mailed"]) == (None, True)
    (letter,) = await letters(world)
    assert "for 24 h" in letter["text"]


async def test_an_administrator_who_gives_a_link_shows_a_fresh_factor(world: World) -> None:
    ada = await join(world)
    stale = administrator().model_copy(update={"factor_fresh": False})
    answer = await world.post(f"/users/{ada.user_id}/password-reset", stale)
    assert (answer.status_code, reason(answer)) == (401, "factor-too-old")
    assert (await world.post(f"/users/{UUID(int=9)}/password-reset", administrator())).status_code == 404


@pytest.mark.parametrize("wrong", ["expired", "unknown", "another purpose", "blocked"])
async def test_a_link_that_is_not_open_sets_nothing(world: World, wrong: str) -> None:
    ada = await join(world)
    token = await link_for(ada)
    if wrong == "expired":
        await world.sql("UPDATE links SET expires_at = now()")
    elif wrong == "unknown":
        token = "reset_unknown"
    elif wrong == "another purpose":
        token = (await world.post(f"/users/{ada.user_id}/factor-reset", administrator())).json()["link_token"]
    else:
        await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2)
    answer = await accept(world, token)
    assert (answer.status_code, reason(answer)) == (404, "link-not-open")


async def test_a_weak_password_does_not_use_the_link_up(world: World) -> None:
    ada = await join(world)
    token = await link_for(ada)
    assert reason(await accept(world, token, "aaaaaaaaaaaaaaaa")) == "password-too-weak"
    assert (await accept(world, token)).status_code == 204


async def test_changing_the_password_makes_open_links_void(world: World) -> None:
    ada = await join(world)
    token = await link_for(ada)
    session_id, _ = await begin(ada)
    assert (await change(ada, session_id)).status_code == 204
    assert (await accept(world, token, "another one of those")).status_code == 404


@pytest.mark.parametrize("actor", [NOBODY, person()])
async def test_only_an_administrator_gives_links(world: World, actor: Actor) -> None:
    ada = await join(world)
    answer = await world.post(f"/users/{ada.user_id}/password-reset", actor)
    assert answer.status_code in (401, 403)
    assert await world.sql("SELECT 1 FROM links") == []
