"""A real Samba domain controller for tests, in a network namespace of its own: its ports are fixed, and they are nobody else's there."""

import ctypes
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.auth.authority import Authority
from tests.auth.slapd import apt_install

REALM = "AD.TEST.EXAMPLE"
DOMAIN = "dc=ad,dc=test,dc=example"
PASSWORD = "Correct.Horse.1"
PACKAGES = ("samba-ad-dc", "samba-ad-provision", "samba-dsdb-modules", "samba-vfs-modules", "winbind", "iproute2")
PROGRAMS = ("samba", "samba-tool", "unshare", "ip")
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
LDAPS = 636
START_S = 60

CONFIGURATION = """
	server services = rpc, ldap, cldap, kdc
	ldap server require strong auth = yes
	tls enabled = yes
	tls keyfile = {key}
	tls certfile = {certificate}
	tls cafile = {trust}
	log file = {folder}/log.%m
	pid directory = {folder}
	ncalrpc dir = {folder}/ncalrpc
"""


class Samba:
    """A domain with ada in staff, staff in everybody, bob who is disabled, and an account that looks people up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = Authority(folder)
        self.trust = self._authority.trust
        self._home = folder / "ad"
        self._configuration = self._home / "etc" / "smb.conf"
        self._database = self._home / "private" / "sam.ldb"
        self._process: subprocess.Popen[bytes] | None = None
        self._network = -1

    def provision(self) -> None:
        certificate, key = self._authority.issue("127.0.0.1", "dc1.ad.test.example")
        self.tool(
            "domain", "provision", "--use-rfc2307", f"--realm={REALM}", "--domain=ADT", "--server-role=dc", "--dns-backend=NONE",
            f"--adminpass={PASSWORD}", f"--targetdir={self._home}", "--host-name=dc1", "--host-ip=127.0.0.1",
            "--option=interfaces=127.0.0.1/8", "--option=bind interfaces only=yes", database=False,
        )  # fmt: skip
        text = self._configuration.read_text()
        kept = [line for line in text.splitlines() if not line.strip().startswith(("server services", "log file"))]
        values = CONFIGURATION.format(key=key, certificate=certificate, trust=self.trust, folder=self.folder)
        self._configuration.write_text("\n".join(kept).replace("[global]", f"[global]{values}", 1) + "\n")
        for name in ("ada", "bob", "hortus"):
            self.tool("user", "create", name, PASSWORD, f"--mail-address={name}@example.org")
        self.tool("user", "disable", "bob")
        for name, member in (("staff", "ada"), ("everybody", "staff")):
            self.tool("group", "add", name)
            self.tool("group", "addmembers", name, member)

    def tool(self, *arguments: str, database: bool = True) -> None:
        """``samba-tool`` on the domain's own database."""
        where = ["-H", str(self._database), "-s", str(self._configuration)] if database else []
        done = subprocess.run(["samba-tool", *arguments, *where], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr or done.stdout

    def start(self) -> None:
        serve = f"ip link set lo up && exec samba -s {self._configuration} --foreground --no-process-group"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(["unshare", "--net", "sh", "-c", serve], stdout=log, stderr=log, start_new_session=True)
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + START_S
        while Path(f"/proc/{self._process.pid}/ns/net").readlink() == own:
            self._demand_running(deadline)
        self._network = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)
        with self.threads(1) as inside:
            while not inside.submit(self._answers).result():
                self._demand_running(deadline)

    def _demand_running(self, deadline: float) -> None:
        assert self._process is not None
        if self._process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"samba did not start: {(self.folder / 'log').read_text()}")
        time.sleep(0.05)

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.trust))
        try:
            with socket.create_connection(("127.0.0.1", LDAPS), 1) as plain:
                context.wrap_socket(plain, server_hostname="127.0.0.1").close()
        except OSError:
            return False
        return True

    def threads(self, count: int) -> ThreadPoolExecutor:
        """Threads that see the network of the domain controller, and no other (setns(2))."""
        return ThreadPoolExecutor(count, initializer=self._enter)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._network, NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def stop(self) -> None:
        if self._network >= 0:
            os.close(self._network)
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(START_S)


@contextmanager
def running(folder: Path) -> Iterator[Samba]:
    """A domain controller, or a skipped test where there can be none.

    It is used where it is installed; ``HORTUS_TEST_SAMBA=1`` installs it, which takes a minute or two.
    """
    if os.geteuid() != 0:
        pytest.skip("Samba's domain controller needs root, for a network namespace of its own")
    wanted = os.environ.get("HORTUS_TEST_SAMBA") == "1"
    if not all(map(shutil.which, PROGRAMS)) and not (wanted and apt_install(*PACKAGES)):
        pytest.skip("Samba's domain controller is not installed; HORTUS_TEST_SAMBA=1 installs it by apt-get")
    server = Samba(folder)
    server.provision()
    try:
        server.start()
        yield server
    finally:
        server.stop()
