"""``python -m services.auth.recover NAME``: the way back for an administrator who cannot sign in, for whoever holds the machine."""

import argparse
import asyncio
import sys
from pathlib import Path

from pydantic import ValidationError

from chassis import db
from chassis.errors import NotFound, Problem
from chassis.outbox import unit_of_work
from contracts.policy import Service
from services.auth import vault
from services.auth.service import accounts
from services.auth.service.tools import Tools
from services.auth.settings import AuthSettings

ACTION = "administrator.recover"


class RecoverySettings(AuthSettings):
    """The settings of auth, of which this needs the database, the master key, ``origins``, and the mail's if there are any."""

    service: str = Service.AUTH.value
    tls_dir: Path = Path()
    kafka: str = ""
    state_dir: Path = Path()
    setup_file: Path = Path()


async def recover(settings: AuthSettings, name: str, *, make_administrator: bool) -> tuple[str, str]:
    """Recover an account: its username, and its one-time link. Raises NotFound, PasswordIsElsewhere, NoAdministrator."""
    safe = vault.Vault(vault.read_master_key(settings.master_key_file))
    passwords = vault.Passwords(threads=1)
    engine = db.engine(settings.database_url, connections=1)
    tools = Tools(engine, safe, passwords, settings)
    try:
        async with unit_of_work(engine, Service.AUTH.value, ACTION) as uow:
            user, token = await accounts.recover(uow, tools, name, make_administrator=make_administrator)
    finally:
        passwords.close()
        await engine.dispose()
    return user.username, f"{settings.origins[0]}/setup#{token}"


def main(arguments: list[str]) -> int:
    """Read the command line; a problem is its sentence on standard error and status 1."""
    parser = argparse.ArgumentParser(prog="python -m services.auth.recover", description=__doc__)
    parser.add_argument("name", help="username or address of the administrator")
    parser.add_argument("--make-administrator", action="store_true", help="also for an account that is no administrator's: make it one")
    asked = parser.parse_args(arguments)
    try:
        settings = RecoverySettings()
    except ValidationError as error:
        missing = ", ".join(f"HORTUS_{str(each['loc'][0]).upper()}" for each in error.errors())
        print(f"Set as for auth: {missing}", file=sys.stderr)
        return 1
    try:
        username, link = asyncio.run(recover(settings, asked.name, make_administrator=asked.make_administrator))
    except NotFound:
        print(f"There is no account {asked.name!r}.", file=sys.stderr)
    except (Problem, vault.BadMasterKey) as problem:
        print(f"{problem}.", file=sys.stderr)
    except db.DatabaseAway:
        print("The database does not answer: this needs a Hortus that runs.", file=sys.stderr)
    else:
        print(f"{username} is invited again as an administrator; nothing of what the account signed in with before counts any more.")
        print(f"One-time link, shown this once, for 24 h:\n  {link}")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
