"""Speaking LDAP: finding people, their groups, and checking a password by binding as them, over verified TLS only.

ldap3 is synchronous, so each call runs in a thread; there are few threads, and few may wait for one. Values become filters
byte by byte as hexadecimal escapes (RFC 4515 section 3): no typed name can be anything but a value.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from ldap3 import BASE, DEREF_NEVER, NONE, SUBTREE, SYNC, Connection, Server, Tls
from ldap3.core.exceptions import LDAPException, LDAPInvalidDnError
from ldap3.utils.conv import escape_bytes
from ldap3.utils.dn import parse_dn

from chassis.log import logger
from services.auth.settings import BadDirectoryFile, DirectorySettings

log = logger(__name__)
IN_CHAIN = "1.2.840.113556.1.4.1941"
PAGED = "1.2.840.113556.1.4.319"
PORTS = {"ldaps": 636, "ldap": 389}
PAGE = 100
AT_ONCE = 200
DEEPEST = 10
MOST_GROUPS = 2000
WAITING = 64
QUIET_S = 5.0
SUCCESS = 0
SIZE_LIMIT = 4
NO_SUCH_OBJECT = 32
WRONG = frozenset({19, 32, 34, 48, 49, 50, 53})
STATE = ("userAccountControl", "accountExpires", "pwdAccountLockedTime", "nsAccountLock")

T = TypeVar("T")
Scope = Literal["BASE", "LEVEL", "SUBTREE"]


class Away(Exception):
    """The directory cannot be asked, or what it answers cannot be believed; nothing follows from it."""


@dataclass(frozen=True)
class Entry:
    """Somebody in a directory: where, and the attributes that were asked for, with names in lower case."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]


class _Tls(Tls):
    """TLS whose own context checks the certificate and the host name: the library's default checks neither."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = True) -> None:  # noqa: ARG002 - always at once
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=connection.server.host)


def tls_context(trust: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, trusting the authorities in a file, or the system's."""
    context = ssl.create_default_context(cafile=trust)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def value(text: str | bytes) -> str:
    """A value in a filter."""
    return str(escape_bytes(text.encode() if isinstance(text, str) else text))


class Directory:
    """A directory server, or several of one directory, asked in the order of the urls.

    ``troubles``: why what it showed last was not followed. ``asked``: whether this process compared with it. ``awaited``: who go if lacked again.
    """

    def __init__(self, settings: DirectorySettings) -> None:
        self.settings = settings
        self.troubles: list[str] = []
        self.asked = False
        self.awaited: set[str] = set()
        self._context = tls_context(str(settings.trust_file) if settings.trust_file else None)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="ldap")
        self._room = settings.threads + WAITING
        self._quiet_until = 0.0
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._attributes = [settings.id_attribute, settings.mail_attribute, *settings.login_attributes, *STATE]
        if settings.group_style == "memberOf":
            self._attributes.append("memberOf")
        for base in filter(None, (settings.people_base, settings.group_base, settings.account)):
            try:
                parse_dn(base)
            except LDAPInvalidDnError:
                if base != settings.account:  # Active Directory takes user@realm as well
                    raise BadDirectoryFile(f"{base!r} is no DN") from None

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """One try of a name at a time: of many at once, all but the first few find that they have to wait before they are asked about.

        Otherwise a burst would use up the tries after which the directory locks an account.
        """
        async with self._turns.setdefault(name, asyncio.Lock()):
            yield

    async def find(self, login: str) -> list[Entry]:
        """Whoever has this login, at most two: one is somebody, two are nobody. Raises Away."""
        by = "".join(f"({name}={value(login)})" for name in self.settings.login_attributes)
        return await self._run(self._find, f"(|{by})")

    async def find_id(self, raw_id: bytes) -> list[Entry]:
        """Whoever has this id, as the directory stores it. Raises Away."""
        return await self._run(self._find, f"({self.settings.id_attribute}={value(raw_id)})")

    async def check(self, dn: str | None, password: str) -> bool:
        """Whether the directory takes the password; without a DN a bind is refused all the same. Raises Away.

        An empty password never reaches it: that would be an unauthenticated bind, which succeeds (RFC 4513 section 5.1.2).
        """
        if not password or dn == "":
            return False
        nobody = f"uid={secrets.token_hex(8)},{self.settings.people_base}"
        return await self._run(self._check, dn or nobody, password if dn else secrets.token_urlsafe(16))

    async def groups(self, entry: Entry) -> frozenset[str]:
        """The DNs of the groups that somebody is in. Raises Away."""
        return await self._run(self._groups_of_one, entry)

    async def look_up(self, raw_ids: Sequence[bytes]) -> list[tuple[Entry, frozenset[str]]]:
        """Those with these ids who are there, each with their groups.

        Raises Away also when nobody at all can be seen: then the account that looks has lost its rights, or the base is wrong.
        """
        return await self._run(self._look_up, raw_ids)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._room <= 0:
            raise Away("too many wait for it")
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except Away:
            raise
        except Exception as error:  # whatever the library trips over in an answer
            raise Away(type(error).__name__) from error
        finally:
            self._room += 1

    def _find(self, condition: str) -> list[Entry]:
        with self._looking() as connection:
            wanted = f"(&{self.settings.people_filter}{condition})"
            return list(self._search(connection, self.settings.people_base, wanted, self._attributes, most=2))

    def _check(self, dn: str, password: str) -> bool:
        with self._connected(dn, password) as (_, code):
            if code not in WRONG | {SUCCESS}:
                raise Away(f"a bind was answered with {code}")
            return code == SUCCESS

    def _groups_of_one(self, entry: Entry) -> frozenset[str]:
        with self._looking() as connection:
            return self._groups(connection, entry, {})

    def _look_up(self, raw_ids: Sequence[bytes]) -> list[tuple[Entry, frozenset[str]]]:
        settings = self.settings
        parents: dict[str, frozenset[str]] = {}
        found = []
        with self._looking() as connection:
            if not list(self._search(connection, settings.people_base, settings.people_filter, [settings.id_attribute], most=1)):
                raise Away("it shows nobody at all")
            for start in range(0, len(raw_ids), AT_ONCE):
                by = "".join(f"({settings.id_attribute}={value(raw)})" for raw in raw_ids[start : start + AT_ONCE])
                entries = self._search(connection, settings.people_base, f"(&{settings.people_filter}(|{by}))", self._attributes)
                found += [(entry, self._groups(connection, entry, parents)) for entry in list(entries)]
        return found

    def _groups(self, connection: Connection, entry: Entry, parents: dict[str, frozenset[str]]) -> frozenset[str]:
        """The groups of somebody, nested ones too where the settings say so; ``parents`` remembers those of groups."""
        if self.settings.nested and self.settings.active_directory:
            return self._having(connection, f"(member:{IN_CHAIN}:={value(entry.dn)})")
        direct = self._direct(connection, entry.dn, entry)
        if not self.settings.nested:
            return direct
        seen, ahead = set(direct), direct
        for _ in range(DEEPEST):
            for group in ahead - set(parents):
                parents[group] = self._direct(connection, group, None)
            ahead = frozenset().union(*(parents[group] for group in ahead)) - seen
            seen |= ahead
            if len(seen) > MOST_GROUPS:
                raise Away("somebody is in too many groups")
            if not ahead:
                break
        return frozenset(seen)

    def _direct(self, connection: Connection, dn: str, entry: Entry | None) -> frozenset[str]:
        if self.settings.group_style == "member":
            return self._having(connection, f"(member={value(dn)})")
        if entry is None:
            entry = next(self._search(connection, dn, "(objectClass=*)", ["memberOf"], scope=BASE), None)
        named = entry.attributes.get("memberof", ()) if entry is not None else ()
        return frozenset(each.decode("utf-8", errors="replace") for each in named)

    def _having(self, connection: Connection, condition: str) -> frozenset[str]:
        base = self.settings.group_base or self.settings.people_base
        return frozenset(group.dn for group in self._search(connection, base, condition, ["1.1"]))

    def _search(
        self, connection: Connection, base: str, condition: str, attributes: list[str], *, scope: Scope = SUBTREE, most: int = 0
    ) -> Iterator[Entry]:
        """What a search finds, page by page (RFC 2696), referrals left aside; anything but a whole answer raises Away."""
        cookie: bytes | None = None
        while True:
            connection.search(
                base,
                condition,
                scope,
                dereference_aliases=DEREF_NEVER,
                attributes=attributes,
                size_limit=most,
                time_limit=self.settings.timeout_s,
                paged_size=None if most or scope == BASE else PAGE,
                paged_cookie=cookie,
            )
            code = connection.result["result"]
            if code == NO_SUCH_OBJECT and scope == BASE:
                return
            if code != SUCCESS and not (most and code == SIZE_LIMIT):
                raise Away(f"a search was answered with {code}")
            yield from _entries(connection.response or ())
            cookie = (connection.result.get("controls") or {}).get(PAGED, {}).get("value", {}).get("cookie")
            if not cookie:
                return

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        """A connection as the account that looks people up."""
        password = self.settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        if not password:
            raise Away("the password file is empty")
        with self._connected(self.settings.account, password) as (connection, code):
            if code != SUCCESS:
                raise Away(f"the account that looks people up was refused with {code}")
            yield connection

    @contextmanager
    def _connected(self, user: str, password: str) -> Iterator[tuple[Connection, int]]:
        """A connection over TLS that tried to bind, and how that was answered."""
        connection = self._open(user, password)
        try:
            connection.bind(read_server_info=False)
            yield connection, int(connection.result["result"])
        finally:
            connection.unbind()

    def _open(self, user: str, password: str) -> Connection:
        """A connection to the first server that answers. One that did not is left alone for a moment: nobody waits for it in vain."""
        if time.monotonic() < self._quiet_until:
            raise Away("it did not answer a moment ago")
        for url in self.settings.urls:
            parts = urlsplit(url)
            server = Server(
                parts.hostname or "",
                parts.port or PORTS[parts.scheme],
                use_ssl=parts.scheme == "ldaps",
                tls=_Tls(self._context),
                get_info=NONE,
                connect_timeout=self.settings.timeout_s,
            )
            connection = Connection(
                server,
                user,
                password,
                client_strategy=SYNC,
                auto_referrals=False,
                read_only=True,
                check_names=False,
                receive_timeout=self.settings.timeout_s,
            )
            try:
                connection.open(read_server_info=False)
                if self.settings.starttls:
                    connection.start_tls(read_server_info=False)
                if isinstance(connection.socket, ssl.SSLSocket):
                    return connection
            except (LDAPException, OSError) as error:
                log.warning("directory server not usable", url=url, error=type(error).__name__)
            if connection.socket is not None:
                connection.socket.close()
        self._quiet_until = time.monotonic() + QUIET_S
        raise Away("no server answers over verified TLS")


def _entries(response: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    for each in response:
        if each["type"] == "searchResEntry":
            raw = each["raw_attributes"]
            yield Entry(each["dn"], {name.lower(): tuple(values) for name, values in raw.items()})
