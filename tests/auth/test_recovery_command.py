import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pyotp
import pytest

from contracts.events import ApiKey, Session, User, UserStatus
from services.auth import recover
from services.auth.app import set_up
from tests.auth.people import PASSWORD, Account, begin, join, present, refresh
from tests.world import World, administrator

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Awaitable[Done]]


def environment_of(world: World) -> dict[str, str]:
    """What the command needs of auth's environment."""
    return {
        "HORTUS_DATABASE_URL": world.database_url,
        "HORTUS_MASTER_KEY_FILE": str(world.runtime.settings.master_key_file),
        "HORTUS_ORIGINS": '["https://hortus.example"]',
    }


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process."""

    async def ran(*arguments: str, **environment: str) -> Done:
        with monkeypatch.context() as patched:
            for name, value in (environment_of(world) | environment).items():
                patched.setenv(name, value)
            capsys.readouterr()
            code = await asyncio.to_thread(recover.main, list(arguments))
        return Done(code, *capsys.readouterr())

    return ran


async def come_back(world: World, link: str, account: Account) -> None:
    """Accept and confirm with the link's token, and sign in."""
    token = link.rpartition("#")[2]
    accepted = await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD + " again"})
    assert accepted.status_code == 200, accepted.text
    account.totp = pyotp.TOTP(accepted.json()["totp_secret"])
    account.password = PASSWORD + " again"
    confirmed = await world.post("/invitations/confirmation", json={"token": token, "code": account.totp.now()})
    assert confirmed.status_code == 200, confirmed.text
    assert (await account.sign_in()).status_code == 201


async def test_the_last_administrator_comes_back_by_a_link_that_is_shown_once_and_recorded(world: World, run: Run) -> None:
    ada = await join(world, roles=["administrator"])
    session_id, token = await begin(ada)
    await world.said()
    await world.recorded()
    done = await run(ada.username)
    assert (done.returncode, done.stderr) == (0, "")
    (link,) = [line.strip() for line in done.stdout.splitlines() if "https://" in line]
    assert link.startswith("https://hortus.example/setup#invitation_")
    said = await world.said()
    assert [(fact.status, fact.version) for fact in said if isinstance(fact, User)] == [(UserStatus.INVITED, 3)]
    assert [(fact.session_id, fact.live) for fact in said if isinstance(fact, Session)] == [(session_id, False)]
    (record,) = await world.recorded()
    assert record["action"] == "administrator.recover"
    assert record["actor"] == {"principal": "service", "service": "auth"}
    assert record["resource"] == {"user_id": str(ada.user_id), "cluster_roles": "administrator", "sessions": "1"}
    assert link.rpartition("#")[2] not in str([record, said])
    assert (await refresh(world, token)).status_code == 401
    assert (await ada.sign_in()).status_code == 401
    await come_back(world, link, ada)


async def test_the_command_is_a_process_of_its_own(world: World) -> None:
    ada = await join(world, roles=["administrator"])
    command = [sys.executable, "-m", "services.auth.recover", ada.username]
    given = {"PATH": os.environ["PATH"], **environment_of(world)}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    await come_back(world, done.stdout.strip().splitlines()[-1], ada)


async def test_without_its_settings_the_command_names_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HORTUS_DATABASE_URL", "HORTUS_MASTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert recover.main(["ada00000"]) == 1
    assert capsys.readouterr().err == "Set as for auth: HORTUS_DATABASE_URL, HORTUS_MASTER_KEY_FILE\n"


async def test_a_recovered_accounts_keys_end(world: World, run: Run) -> None:
    ada = await present(await join(world, roles=["administrator"]))
    expires = (await world.now() + timedelta(days=1)).isoformat()
    await world.post("/keys", ada.actor(), json={"name": "nightly", "scopes": ["project.list"], "expires_at": expires})
    await world.said()
    assert (await run(ada.username)).returncode == 0
    assert [fact.live for fact in await world.said() if isinstance(fact, ApiKey)] == [False]


async def test_a_blocked_administrator_is_recovered_and_what_they_had_is_gone(world: World, run: Run) -> None:
    ada = await join(world, roles=["administrator"])
    await join(world, "eve@example.org", ["administrator"])
    await world.patch(f"/users/{ada.user_id}", administrator(), json={"status": "blocked"}, version=2)
    done = await run("ada@example.org")
    assert done.returncode == 0, done.stderr
    assert await world.sql("SELECT 1 FROM credentials WHERE user_id = :id", id=ada.user_id) == []
    await come_back(world, done.stdout.strip().splitlines()[-1], ada)


async def test_a_second_recovery_makes_the_first_link_void(world: World, run: Run) -> None:
    ada = await join(world, roles=["administrator"])
    first, second = [(await run(ada.username)).stdout.strip().splitlines()[-1] for _ in range(2)]
    refused = await world.post("/invitations/acceptance", json={"token": first.rpartition("#")[2], "password": PASSWORD})
    assert refused.status_code == 404
    await come_back(world, second, ada)


async def test_while_a_recovery_is_open_no_first_administrator_is_invited(world: World, run: Run) -> None:
    ada = await join(world, world.runtime.settings.administrator_email, ["administrator"])
    assert (await run(ada.username)).returncode == 0
    await set_up(world.runtime)
    assert not world.runtime.settings.setup_file.exists()
    assert [row.username for row in await world.sql("SELECT username FROM users")] == [ada.username]


async def test_somebody_else_becomes_an_administrator_only_where_that_is_asked_for(world: World, run: Run) -> None:
    bob = await join(world, "bob@example.org", ["auditor"])
    await world.said()
    refused = await run(bob.username)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no administrator's" in refused.stderr
    assert await world.said() == []
    done = await run(bob.username, "--make-administrator")
    assert done.returncode == 0, done.stderr
    (said,) = await world.said()
    assert isinstance(said, User)
    assert said.cluster_roles == {"administrator", "auditor"}


async def test_an_account_whose_password_is_elsewhere_is_not_recovered(world: World, run: Run) -> None:
    ada = await join(world, roles=["administrator"])
    await world.sql("UPDATE users SET source = 'ldap', provider = 'ldap', external_id = 'x' WHERE user_id = :id", id=ada.user_id)
    refused = await run(ada.username)
    assert refused.returncode == 1
    assert "directory" in refused.stderr


@pytest.mark.parametrize(
    ("name", "environment", "sentence"),
    [
        ("nobody00", {}, "There is no account"),
        ("nobody00", {"HORTUS_MASTER_KEY_FILE": "/nowhere"}, "/nowhere"),
        ("nobody00", {"HORTUS_DATABASE_URL": "postgresql+asyncpg://a:b@localhost:1/a"}, "The database does not answer"),
    ],
)
async def test_a_recovery_that_cannot_be_says_why_in_one_line(run: Run, name: str, environment: dict[str, str], sentence: str) -> None:
    refused = await run(name, **environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert sentence in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


async def test_the_other_administrators_are_told_by_letter(world: World, run: Run) -> None:
    ada = await join(world, roles=["administrator"])
    eve = await join(world, "eve@example.org", ["administrator"])
    assert (await run(ada.username, HORTUS_SMTP_URL="smtps://localhost:1")).returncode == 0
    letters = await world.sql("SELECT user_id, sealed, letter_id FROM letters")
    assert [row.user_id for row in letters] == [eve.user_id]
    text = world.runtime.extra["tools"].vault.open_letter(letters[0].sealed, UUID(str(letters[0].letter_id)))
    assert ada.username in text
    assert "invitation_" not in text
