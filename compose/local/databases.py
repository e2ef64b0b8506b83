"""The services' databases: made, given their roles, and brought up to date by migrations that have not run yet."""

import hashlib
import sys
from collections.abc import Iterable

from compose.local.home import REPOSITORY
from compose.local.postgres import Postgres
from compose.local.process import Child, base_environment
from contracts.policy import Service

SECONDS = 180.0
SOURCES = ("chassis/migrations/**/*.py", "chassis/db.py", "services/*/migrations/**/*.py", "services/*/models.py")


def bring_up_to_date(postgres: Postgres, services: Iterable[Service]) -> dict[Service, str]:
    """Provision the databases of ``services``, migrate those that are behind, and return each service's own address.

    What a database was brought to is remembered in its comment, so that a start with nothing new runs no migration.
    """
    addresses, owners = {}, {}
    for service in services:
        addresses[service], owners[service] = postgres.provision(service)
    newest = _digest()
    behind = [service for service in owners if _state(postgres, service) != newest]
    if behind:
        _migrate(postgres, {service: owners[service] for service in behind})
        for service in behind:
            postgres.run_sql(f"COMMENT ON DATABASE {service} IS 'migrations {newest}'")
    return addresses


def _state(postgres: Postgres, service: Service) -> str:
    comment = postgres.run_sql(
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{service}'"  # noqa: S608 - an enumeration's word
    )
    return comment.removeprefix("migrations ")


def _migrate(postgres: Postgres, owners: dict[Service, str]) -> None:
    environment = {f"HORTUS_{service.upper()}_DATABASE_OWNER_URL": url for service, url in owners.items()}
    command = [sys.executable, "-m", "chassis", "migrate", *owners]
    migration = Child(postgres.home, "migrate", command, base_environment(**environment), folder=REPOSITORY)
    migration.start()
    try:
        migration.wait_for_end(SECONDS)
    finally:
        migration.stop()


def _digest() -> str:
    found = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in REPOSITORY.glob(pattern)):
        found.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
    return found.hexdigest()[:32]
