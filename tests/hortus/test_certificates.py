"""The command's certificates: what lies on the machine, whose it is, and how it is renewed, checked and removed."""

import fcntl
import json
import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from hortus.client import Folder, HortusError, new_key
from hortus.client.folder import FILES, About
from tests.hortus.conftest import Run
from tests.hortus.door import SESSION, Answer, Asked, Door, problem

P = "01890000-0000-7000-8000-000000000001"
Q = "01890000-0000-7000-8000-000000000002"
PATH = f"/projects/{P}/certificates"


class Authority:
    """Signs requests like ca does, with a life of its own choosing."""

    def __init__(self, door: Door, life: timedelta = timedelta(hours=8)) -> None:
        self.life = life
        self.issued = 0
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "people")])
        for project in (P, Q):
            door.on("POST", f"/projects/{project}/certificates", self.issue)

    def issue(self, asked: Asked) -> Answer:
        csr = x509.load_pem_x509_csr(asked.json["csr"].encode())
        now = datetime.now(UTC)
        self.issued += 1
        leaf = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(self.name)
            .public_key(csr.public_key())
            .serial_number(self.issued)
            .not_valid_before(now - timedelta(seconds=60))
            .not_valid_after(now + self.life)
            .sign(self.key, hashes.SHA256())
        )
        return Answer(
            201,
            {
                "certificate_id": f"{self.issued:032x}",
                "project_id": asked.path.split("/")[2],
                "user_id": "u",
                "not_before": leaf.not_valid_before_utc.isoformat(),
                "not_after": leaf.not_valid_after_utc.isoformat(),
                "live": True,
                "chain": leaf.public_bytes(Encoding.PEM).decode(),
                "fingerprint": leaf.fingerprint(hashes.SHA256()).hex(),
                "version": 1,
            },
        )


@pytest.fixture
def run(run_here: Run) -> Run:
    return run_here


@pytest.fixture
def authority(door: Door) -> Authority:
    return Authority(door)


def says(ended: "subprocess.CompletedProcess[str]") -> Any:
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def fits(folder: Path) -> bool:
    """Whether the key in a folder is that of its certificate."""
    key: Any = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    leaf: Any = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
    return bool(key.public_key() == leaf.public_key())


def test_key_chain_and_trust_are_written_for_their_owner_alone_and_the_end_is_told(
    door: Door, authority: Authority, signed_in: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    ended = signed_in("certificate", "create", "-p", P, "--folder", str(folder), "--json")
    told = says(ended)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {name: (folder / name).stat().st_mode & 0o777 for name in FILES} == dict.fromkeys(FILES, 0o600)
    assert (folder / "trust.pem").read_text() == door.root.read_text()
    assert fits(folder)
    assert "PRIVATE" not in b"".join(asked.body for asked in door.asked).decode()
    assert (told["username"], told["project_id"], told["folder"]) == ("ada", P, str(folder))
    assert datetime.fromisoformat(told["ends_at"]) > datetime.now(UTC) + timedelta(hours=7)
    assert "It ends at" in ended.stderr
    assert says(signed_in("certificate", "show", "--folder", str(folder), "--json")) == told


def test_two_people_and_two_suites_on_one_machine_have_folders_of_their_own(
    door: Door, authority: Authority, signed_in: Run, run: Run, tmp_path: Path
) -> None:
    folders = [says(signed_in("certificate", "create", "-p", P, "--json"))["folder"]]
    door.on("POST", "/sessions", Answer(201, {**SESSION, "user": {**SESSION["user"], "username": "ben/.."}}))  # type: ignore[dict-item]
    ended = run("login", "ben", "--address", door.address, "--code", "123456", HORTUS_PASSWORD="correct horse battery")
    assert ended.returncode == 0, ended.stderr
    folders.append(says(run("certificate", "create", "-p", P, "--json"))["folder"])
    second = tmp_path / "second"
    second.mkdir()
    other = Door(second)
    Authority(other)
    other.on("POST", "/sessions", Answer(201, SESSION))
    try:
        trust = ("--address", other.address, "--trust", str(other.root))
        ended = run("login", "ada", *trust, "--code", "123456", HORTUS_PASSWORD="correct horse battery")
        assert ended.returncode == 0, ended.stderr
        folders.append(says(run("certificate", "create", "-p", P, "--json"))["folder"])
    finally:
        other.close()
    assert len(set(folders)) == 3
    assert all(fits(Path(folder)) for folder in folders)
    assert all(Path(folder).resolve().is_relative_to(tmp_path / "config") for folder in folders)
    assert [json.loads((Path(folder) / "about.json").read_text())["username"] for folder in folders] == ["ada", "ben/..", "ada"]


def test_a_folder_with_somebody_elses_certificate_is_left_as_it_is(
    door: Door, authority: Authority, signed_in: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    says(signed_in("certificate", "create", "-p", P, "--folder", str(folder), "--json"))
    before = (folder / "key.pem").read_bytes()
    asked = authority.issued
    ended = signed_in("certificate", "create", "-p", Q, "--folder", str(folder))
    assert ended.returncode == 1
    assert f"holds the certificate of ada in the project {P}" in ended.stderr
    assert ((folder / "key.pem").read_bytes(), authority.issued) == (before, asked)
    says(signed_in("certificate", "create", "-p", P, "--folder", str(folder), "--json"))
    assert (folder / "key.pem").read_bytes() != before


def test_renewing_puts_a_new_key_in_place_of_the_old_one(door: Door, authority: Authority, signed_in: Run) -> None:
    first = says(signed_in("certificate", "create", "-p", P, "--json"))
    key = Path(first["key"]).read_bytes()
    second = says(signed_in("certificate", "renew", "--json"))
    assert second["folder"] == first["folder"]
    assert second["certificate_id"] != first["certificate_id"]
    assert Path(second["key"]).read_bytes() != key
    assert fits(Path(second["folder"]))
    assert says(signed_in("certificate", "show", "-p", P, "--json"))["certificate_id"] == second["certificate_id"]


def test_a_command_that_uses_a_certificate_renews_it_past_half_of_its_life_and_not_before(
    door: Door, authority: Authority, signed_in: Run
) -> None:
    folder = says(signed_in("certificate", "create", "-p", P, "--json"))["folder"]
    door.on("GET", "/projects", {"items": [], "next": None})
    use = ("--certificate", folder, "projects", "list", "--json")
    assert says(signed_in(*use, HORTUS_CERTIFICATE_ADDRESS=door.address)) == []
    assert authority.issued == 1
    authority.life = timedelta(minutes=10)
    says(signed_in("certificate", "renew", "--json"))
    aged(Path(folder), timedelta(minutes=6))
    assert says(signed_in(*use, HORTUS_CERTIFICATE_ADDRESS=door.address)) == []
    assert authority.issued == 3
    assert fits(Path(folder))


def test_without_a_session_a_certificate_is_used_until_it_ends_and_then_the_fix_is_named(
    door: Door, authority: Authority, signed_in: Run
) -> None:
    authority.life = timedelta(minutes=10)
    folder = says(signed_in("certificate", "create", "-p", P, "--json"))["folder"]
    door.on("GET", "/projects", {"items": [], "next": None})
    door.on("POST", PATH, problem(401, "session-ended", "The session has ended"))
    use = ("--certificate", folder, "projects", "list", "--json")
    aged(Path(folder), timedelta(minutes=6))
    ended = signed_in(*use, HORTUS_CERTIFICATE_ADDRESS=door.address)
    assert ended.returncode == 0
    assert "was not renewed" in ended.stderr
    aged(Path(folder), timedelta(minutes=5))
    ended = signed_in(*use, HORTUS_CERTIFICATE_ADDRESS=door.address)
    assert ended.returncode == 1
    assert "ended at" in ended.stderr


def aged(folder: Path, by: timedelta) -> None:
    """Let time pass for what is kept of a certificate."""
    about = folder / "about.json"
    kept = json.loads(about.read_text())
    for name in ("not_before", "not_after"):
        kept[name] = (datetime.fromisoformat(kept[name]) - by).isoformat()
    about.write_text(json.dumps(kept))


def test_somebody_elses_certificate_is_not_renewed(door: Door, authority: Authority, signed_in: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    says(signed_in("certificate", "create", "-p", P, "--folder", str(folder), "--json"))
    about = folder / "about.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "username": "ben"}))
    ended = signed_in("certificate", "renew", "--folder", str(folder))
    assert ended.returncode == 1
    assert "is that of ben" in ended.stderr
    assert authority.issued == 1


def test_what_others_can_read_is_not_used(authority: Authority, signed_in: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    says(signed_in("certificate", "create", "-p", P, "--folder", str(folder), "--json"))
    folder.chmod(0o755)
    ended = signed_in("certificate", "show", "--folder", str(folder))
    assert ended.returncode == 1
    assert "Others can read" in ended.stderr
    folder.chmod(0o700)
    (folder / "key.pem").chmod(0o644)
    assert signed_in("certificate", "show", "--folder", str(folder)).returncode == 1


def test_which_certificate_is_meant_has_to_be_clear(authority: Authority, signed_in: Run) -> None:
    ended = signed_in("certificate", "show")
    assert ended.returncode == 1
    assert "no such certificate" in ended.stderr
    for project in (P, Q):
        says(signed_in("certificate", "create", "-p", project, "--json"))
    ended = signed_in("certificate", "show")
    assert ended.returncode == 1
    assert P in ended.stderr
    assert says(signed_in("certificate", "show", "-p", Q, "--json"))["project_id"] == Q


def test_revoking_the_one_on_this_machine_removes_its_key(door: Door, authority: Authority, signed_in: Run) -> None:
    told = says(signed_in("certificate", "create", "-p", P, "--json"))
    door.on("DELETE", f"{PATH}/{told['certificate_id']}", Answer(204))
    ended = signed_in("certificate", "revoke")
    assert ended.returncode == 0, ended.stderr
    assert list(Path(told["folder"]).rglob("*")) == []
    door.on("DELETE", f"{PATH}/0a", Answer(204))
    assert signed_in("certificate", "revoke", "0a").returncode == 1
    assert signed_in("certificate", "revoke", "0a", "-p", P).returncode == 0


def test_a_refused_revocation_leaves_the_key(door: Door, authority: Authority, signed_in: Run) -> None:
    told = says(signed_in("certificate", "create", "-p", P, "--json"))
    door.on("DELETE", f"{PATH}/{told['certificate_id']}", problem(503, "cannot-decide", "Cannot be decided now"))
    assert signed_in("certificate", "revoke").returncode == 6
    assert fits(Path(told["folder"]))


# A folder that is written while others read it, or while the machine stops


def held(folder: Path, number: int) -> tuple[bytes, Any, About]:
    """A key, what is issued for it, and what is kept of that."""
    pair = new_key("x")
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "people")])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(x509.load_pem_x509_csr(pair.csr.encode()).public_key())
        .serial_number(number)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
        .sign(authority, hashes.SHA256())
    )
    kept = About("https://localhost:1", "u", "ada", P, P, f"{number:032x}", now.isoformat(), now.isoformat())
    return pair.key, {"chain": leaf.public_bytes(Encoding.PEM).decode()}, kept


def test_a_crash_between_any_two_steps_leaves_a_certificate_whose_key_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "one"
    with Folder(folder).alone():
        key, issued, kept = held(folder, 1)
        Folder(folder).write(key, issued, "root", kept)
    seen = set()
    for allowed in range(1, 80):
        copy = tmp_path / f"copy-{allowed}"
        shutil.copytree(folder, copy, symlinks=True)
        left = [allowed]
        key, issued, kept = held(folder, 2)
        whole = True
        with monkeypatch.context() as patched:
            for where, name in ((os, "open"), (os, "fsync"), (Path, "symlink_to"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
                patched.setattr(where, name, stopping(getattr(where, name), left))
            try:
                Folder(copy).write(key, issued, "root", kept)
            except _Stops:
                whole = False
        assert fits(copy), allowed
        about = Folder(copy).read()
        assert about is not None
        leaf = x509.load_pem_x509_certificate((copy / "certificate.pem").read_bytes())
        assert int(about.certificate_id, 16) == leaf.serial_number
        seen.add(leaf.serial_number)
        if whole:
            break
    assert whole
    assert seen == {1, 2}


def test_a_removal_that_is_cut_off_has_removed_the_key_first_and_can_be_finished(tmp_path: Path) -> None:
    whole = False
    for allowed in range(40):
        folder = tmp_path / f"one-{allowed}"
        with Folder(folder).alone():
            for number in (1, 2):
                key, issued, kept = held(folder, number)
                Folder(folder).write(key, issued, "root", kept)
        left = [allowed]
        with pytest.MonkeyPatch.context() as patched, Folder(folder).alone():
            for where, name in ((os, "open"), (os, "fsync"), (Path, "unlink"), (shutil, "rmtree")):
                patched.setattr(where, name, stopping(getattr(where, name), left))
            try:
                Folder(folder).erase()
                whole = True
            except _Stops:
                pass
        assert not list(folder.glob("*/key.pem")) or all((folder / name).exists() for name in FILES if name != "key.pem"), allowed
        if whole:
            assert list(folder.rglob("*")) == []
            break
        with Folder(folder).alone():
            Folder(folder).erase()
        assert {path.name for path in folder.rglob("*")} <= {".lock"}
    assert whole
    assert allowed > 5


def test_whoever_waited_for_a_folder_that_was_erased_holds_the_new_lock(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "one")
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        with folder.alone():
            inside.set()
            leave.wait(30)

    with folder.alone():
        key, issued, kept = held(folder.path, 1)
        folder.write(key, issued, "root", kept)
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not inside.wait(0.2)
        folder.erase()
    assert inside.wait(30)
    with (folder.path / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    leave.set()
    waiting.join()


def test_a_certificate_that_was_renewed_meanwhile_is_not_removed_with_the_one_that_was_revoked(
    door: Door, authority: Authority, signed_in: Run
) -> None:
    told = says(signed_in("certificate", "create", "-p", P, "--json"))
    folder = Folder(Path(told["folder"]))

    def revoke(_asked: Asked) -> Answer:
        with folder.alone():
            key, issued, kept = held(folder.path, 7)
            folder.write(key, issued, "root", kept)
        return Answer(204)

    door.on("DELETE", f"{PATH}/{told['certificate_id']}", revoke)
    assert signed_in("certificate", "revoke").returncode == 0
    assert fits(folder.path)


class _Stops(BaseException):
    """The machine stops here."""


def stopping(call: Any, left: list[int]) -> Any:
    def counting(*arguments: Any, **named: Any) -> Any:
        if left[0] == 0:
            raise _Stops
        left[0] -= 1
        return call(*arguments, **named)

    return counting


def test_what_is_damaged_says_so_and_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert Folder(tmp_path / "nowhere").read() is None
    with pytest.raises(HortusError, match="There is no certificate"):
        Folder(tmp_path / "nowhere").chain()
    folder = tmp_path / "one"
    with Folder(folder).alone():
        key, issued, kept = held(folder, 1)
        Folder(folder).write(key, issued, "root", kept)
    (folder / "about.json").write_text("{}")
    with pytest.raises(HortusError, match="is damaged"):
        Folder(folder).read()
