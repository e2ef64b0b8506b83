"""Which account the servers and the programs of jobs run as, and what that account can reach."""

import grp
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from compose.local.problems import SetupProblem

SERVER_ACCOUNT = "hortus"
JOB_ACCOUNT = "hortus-job"


@dataclass(frozen=True)
class Account:
    """A Unix account; ``switch`` says that a child has to change to it before it starts."""

    name: str
    uid: int
    gid: int
    switch: bool

    def own(self, *paths: Path) -> None:
        """Give ``paths`` to this account, where the runner is somebody else."""
        if self.switch:
            for path in paths:
                os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Whether the account can enter every folder above ``path``, links resolved."""
        if not self.switch:
            return os.access(path.parent if not path.exists() else path, os.R_OK)
        return all(self._enters(folder) for folder in path.resolve().parents)

    def _enters(self, folder: Path) -> bool:
        try:
            state = folder.stat()
        except FileNotFoundError:
            return True
        if state.st_uid == self.uid:
            return bool(state.st_mode & stat.S_IXUSR)
        if state.st_gid == self.gid:
            return bool(state.st_mode & stat.S_IXGRP)
        return bool(state.st_mode & stat.S_IXOTH)


def current() -> Account:
    """The account that the runner itself has."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise SetupProblem(f"The user id {uid} has no account; run as a user that `getent passwd` knows.") from None
    return Account(name, uid, gid, switch=False)


def servers() -> Account:
    """The account for PostgreSQL, Kafka, Elasticsearch and Valkey: one's own, or as root `hortus`."""
    return current() if os.geteuid() != 0 else _system_account(os.environ.get("HORTUS_SERVER_ACCOUNT", SERVER_ACCOUNT))


def jobs() -> Account:
    """The account that programs of jobs run as: one's own, or as root `hortus-job`, which owns nothing."""
    return current() if os.geteuid() != 0 else _system_account(os.environ.get("HORTUS_JOB_ACCOUNT", JOB_ACCOUNT))


def _system_account(name: str) -> Account:
    found = _look_up(name)
    if found is None:
        _create(name)
        found = _look_up(name)
    if found is None:
        raise SetupProblem(f"Root needs an unprivileged account `{name}`; create it with `useradd --system {name}`.")
    return found


def _look_up(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    if entry.pw_uid == 0:
        raise SetupProblem(f"The account `{name}` is root; name an unprivileged one in HORTUS_SERVER_ACCOUNT and HORTUS_JOB_ACCOUNT.")
    return Account(name, entry.pw_uid, grp.getgrgid(entry.pw_gid).gr_gid, switch=True)


def _create(name: str) -> None:
    tool = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        return
    subprocess.run(
        [tool, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
