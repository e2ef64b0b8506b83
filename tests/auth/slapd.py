"""A real OpenLDAP server for tests: installed where that is possible, started on free ports over TLS, filled and ended."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ldap3
import pytest
from ldap3.core.exceptions import LDAPNoSuchObjectResult

from tests.auth.authority import Authority

BASE = "dc=example,dc=org"
PEOPLE = f"ou=people,{BASE}"
GROUPS = f"ou=groups,{BASE}"
ROOT, ROOT_PASSWORD = f"cn=root,{BASE}", "root secret"
LOOKING, LOOKING_PASSWORD = f"cn=hortus,{BASE}", "looking secret"
PASSWORD = "correct horse"
NAMES = ("ada", "bob", "eve")
SLAPD = Path("/usr/sbin/slapd")
MODULES = Path("/usr/lib/ldap")
SCHEMAS = Path("/etc/ldap/schema")
MISSING = "OpenLDAP's slapd is not installed and cannot be installed here (as root, by apt-get)"
INSTALL_S = 180
START_S = 10

CONFIGURATION = """\
include {schemas}/core.schema
include {schemas}/cosine.schema
include {schemas}/inetorgperson.schema
modulepath {modules}
moduleload back_mdb
moduleload memberof
moduleload refint
moduleload ppolicy
TLSCACertificateFile {trust}
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
TLSVerifyClient never
security simple_bind=128
allow bind_anon_dn
pidfile {folder}/slapd.pid
argsfile {folder}/slapd.args
database mdb
maxsize 104857600
suffix {base}
rootdn {root}
rootpw {password}
directory {folder}/db
dbnosync
index objectClass,uid,mail,member,memberOf,entryUUID eq
sizelimit size.soft=50 size.hard=50 size.pr=100 size.prtotal=unlimited
overlay memberof
memberof-group-oc groupOfNames
memberof-member-ad member
memberof-memberof-ad memberOf
overlay refint
refint_attributes member memberOf
overlay ppolicy
access to attrs=userPassword by anonymous auth by self =w by * none
access to * by dn.exact="{looking}" read by * none
"""


def apt_install(*packages: str) -> bool:
    """Install Debian packages, as root; whether that worked."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60", *packages]
    for command in (install, ["apt-get", "update", "-qq"], install):
        try:
            done = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            return False
        if command is install and done.returncode == 0:
            return True
    return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Slapd:
    """A running server; ``ldaps`` and ``plain`` are its addresses, ``trust`` is who its certificate comes from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = Authority(folder)
        self.trust = authority.trust
        certificate, key = authority.issue("127.0.0.1")
        (folder / "db").mkdir()
        values = {"schemas": SCHEMAS, "modules": MODULES, "trust": self.trust, "certificate": certificate, "key": key, "folder": folder}
        text = CONFIGURATION.format(**values, base=BASE, root=ROOT, password=f'"{ROOT_PASSWORD}"', looking=LOOKING)
        self._configuration = folder / "slapd.conf"
        self._configuration.write_text(text)
        self._program = folder / "slapd"
        shutil.copy2(SLAPD, self._program)  # a profile that confines the installed one to its own folders goes by its path
        self._ports = free_port(), free_port()
        self.ldaps = f"ldaps://127.0.0.1:{self._ports[0]}"
        self.plain = f"ldap://127.0.0.1:{self._ports[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command: list[str | Path] = [self._program, "-f", self._configuration, "-h", f"{self.ldaps} {self.plain}", "-d", "0"]
        log = (self.folder / "log").open("wb")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not all(self._answers(port) for port in self._ports):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"slapd did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_S)
            self._process = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server is not there while the block runs."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _answers(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    @contextmanager
    def root(self) -> Iterator[Any]:
        """An independent client (an ldap3.Connection) that may change everything."""
        server = ldap3.Server(self.ldaps, tls=ldap3.Tls(ca_certs_file=str(self.trust)), get_info=ldap3.NONE)
        with ldap3.Connection(server, ROOT, ROOT_PASSWORD, auto_bind=True, raise_exceptions=True) as connection:
            yield connection

    def fill(self) -> None:
        """Three people, a group that ada is in, and a group that this group is in; what was there before is gone."""
        with self.root() as root:
            self._empty(root)
            root.add(BASE, ["dcObject", "organization"], {"dc": "example", "o": "Example"})
            root.add(LOOKING, ["organizationalRole", "simpleSecurityObject"], {"userPassword": LOOKING_PASSWORD})
            for unit in (PEOPLE, GROUPS):
                root.add(unit, ["organizationalUnit"])
            for name in NAMES:
                self.add_person(root, name)
            root.add(group("staff"), ["groupOfNames"], {"member": [person("ada")]})
            root.add(group("all"), ["groupOfNames"], {"member": [group("staff"), person("bob")]})

    def _empty(self, root: Any) -> None:
        try:
            root.search(BASE, "(objectClass=*)", attributes=["1.1"])
        except LDAPNoSuchObjectResult:
            return
        for entry in sorted((each["dn"] for each in root.response), key=len, reverse=True):
            root.delete(entry)

    def add_person(self, root: Any, name: str, **more: object) -> None:
        attributes = {"sn": name, "cn": name, "mail": f"{name}@example.org", "userPassword": PASSWORD, **more}
        root.add(person(name), ["inetOrgPerson"], attributes)


def person(name: str) -> str:
    return f"uid={name},{PEOPLE}"


def group(name: str) -> str:
    return f"cn={name},{GROUPS}"


def configuration(slapd: Slapd, folder: Path, **other: Any) -> dict[str, Any]:
    """What auth's file says of a server; the password of the account that looks lies in the folder."""
    password = folder / "looking"
    password.write_text(LOOKING_PASSWORD + "\n")
    values: dict[str, Any] = {
        "name": "hospital",
        "urls": [slapd.ldaps],
        "trust_file": str(slapd.trust),
        "account": LOOKING,
        "password_file": str(password),
        "people_base": PEOPLE,
        "login_attributes": ["uid", "mail"],
        "id_attribute": "entryUUID",
        "group_base": GROUPS,
        "nested": True,
    }
    return values | other


def written(values: dict[str, Any], folder: Path) -> Path:
    """The file for auth."""
    file = folder / "ldap.json"
    file.write_text(json.dumps(values))
    return file


@cache
def installed() -> bool:
    """Whether there is a server to start here; it is installed where that is possible."""
    return SLAPD.exists() or apt_install("slapd", "ldap-utils")


@contextmanager
def running(folder: Path) -> Iterator[Slapd]:
    """A server in a folder of its own, or a skipped test where there can be none."""
    if not installed():
        pytest.skip(MISSING)
    server = Slapd(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
