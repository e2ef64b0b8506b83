"""When somebody last signed in is known of those, too, who did before it was kept."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from alembic import command
from alembic.config import Config

from chassis import db, migrate
from tests.world import Databases

ADA, BOB = UUID(int=1), UUID(int=2)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
USER = """INSERT INTO users (user_id, username, email, status, cluster_roles, version, created_at, confirmed_at)
          VALUES ($1, $2, $2 || '@example.org', 'active', '{}', 1, $3, $3)"""
SESSION = """INSERT INTO sessions (session_id, user_id, created_at, expires_at, version, rotated_at, factor_at, last_used_at)
             VALUES (gen_random_uuid(), $1, $2, $2, 1, $2, $2, $2)"""


def upgrade(owner_url: str, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    config.set_main_option("version_locations", str(migrate.SERVICES / "auth" / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(url=owner_url, version_table="service_version", finish=lambda _: None)
    command.upgrade(config, to)


async def test_the_last_sign_in_of_before_is_that_of_the_newest_session(databases: Databases) -> None:
    name = "migrating_auth"
    _, owner_url = await asyncio.to_thread(databases.postgres.create_database, name, owner="auth_owner", runtime="auth")
    await asyncio.to_thread(upgrade, owner_url, "auth_0005")
    connection = await asyncpg.connect(db.plain_dsn(owner_url))
    try:
        for user_id, username in ((ADA, "ada00000"), (BOB, "bob00000")):
            await connection.execute(USER, user_id, username, NOW)
        for hours in (1, 3, 2):
            await connection.execute(SESSION, ADA, NOW + timedelta(hours=hours))
        await asyncio.to_thread(upgrade, owner_url, "head")
        rows = await connection.fetch("SELECT last_sign_in_at FROM users ORDER BY user_id")
        assert [row["last_sign_in_at"] for row in rows] == [NOW + timedelta(hours=3), None]
    finally:
        await connection.close()
        await databases._execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")
