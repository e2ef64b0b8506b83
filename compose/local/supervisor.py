"""The process behind `make up`: it holds a suite, restarts what dies, and stops everything when told to."""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from compose.local import authorities, ceremony, operators
from compose.local.databases import bring_up_to_date
from compose.local.home import REPOSITORY, Home, keep
from compose.local.pki import SERVICE_LIFETIME
from compose.local.ports import demand_free
from compose.local.postgres import Postgres
from compose.local.problems import SetupProblem
from compose.local.process import base_environment, end_leftovers, resident, started_at
from compose.local.server import remove_sockets
from compose.local.suite import RUNNER, Suite, setup_link
from contracts.policy import Service

PR_SET_CHILD_SUBREAPER = 36
PEOPLE_PORT, CERTIFICATE_PORT = 8443, 8444
MOST_REPLICAS = 16
SHORTEST_LIFE_S, LONGEST_LIFE_S = 20, 30 * 24 * 3600
PASSED_ON = (
    "HORTUS_LOG_LEVEL",
    "HORTUS_ADMINISTRATOR_EMAIL",
    "HORTUS_ORIGINS",
    "HORTUS_FACTOR_POLICY",
    "HORTUS_REGISTRATION",
    "HORTUS_PROJECT_CREATORS",
    "HORTUS_PROJECT_CREATOR_GROUPS",
    "HORTUS_HASH_THREADS",
    "HORTUS_SIGNING_KEY_DAYS",
    "HORTUS_TOKEN_S",
    "HORTUS_STEP_UP_S",
    "HORTUS_ACTIVITY_S",
    "HORTUS_IDLE_S",
    "HORTUS_SESSION_S",
    "HORTUS_DIRECT_ADD",
    "HORTUS_INVITATION_S",
    "HORTUS_BREAK_GLASS_S",
    "HORTUS_BREAK_GLASS_MAX_S",
    "HORTUS_REVIEW_S",
    "HORTUS_SMTP_URL",
    "HORTUS_SMTP_PASSWORD_FILE",
    "HORTUS_SMTP_FROM",
    "HORTUS_SMTP_TRUST",
    "HORTUS_LDAP_FILE",
    "HORTUS_LDAP_SYNC_S",
    "HORTUS_OIDC_FILE",
)
READY_LINE = "\x04ready"
DOWN_SECONDS = 90.0
POLL_SECONDS = 0.1
REAP_SECONDS = 5.0


def home_path() -> Path:
    """The state folder: `HORTUS_HOME`, or `.hortus` in the checkout."""
    return Path(os.environ.get("HORTUS_HOME") or REPOSITORY / ".hortus")


def up() -> int:
    """Start the supervisor detached, show its progress, and return 0 when everything is ready."""
    began = time.monotonic()
    home = Home(home_path())
    if _holds_lock(home):
        return _already(home)
    if _pid_file(home).exists():
        print("the pid file of a runner that is gone was removed")
        _pid_file(home).unlink()
    for name in end_leftovers(home):
        print(f"ended {name}, left behind by a runner that crashed")
    _replicas()
    _certificate_life()
    for setting, port in _ports().items():
        demand_free(_host(), port, setting)
    with home.log_file("supervisor").open("ab") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "compose.local", "supervise"],
            cwd=REPOSITORY,
            env=os.environ | {"HORTUS_HOME": str(home.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        ready = _show(runner)
    except KeyboardInterrupt:
        runner.terminate()
        runner.wait()
        print("Stopped.")
        return 130
    if not ready:
        runner.wait()
        raise SetupProblem(f"Hortus did not start; {home.log_file('supervisor')} says more.")
    print(_closing(home, f"Hortus is ready after {time.monotonic() - began:.0f} s: {_described(home)['address']}"))
    return 0


def down() -> int:
    """Stop everything that the home's runner started, also after a crash of it; return 0 when nothing is left."""
    home = Home(home_path())
    pid = _supervisor(home)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_SECONDS
        while _supervisor(home) is not None:
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
    for name in end_leftovers(home):
        print(f"ended {name}, which was left behind")
    remove_sockets(home)
    _pid_file(home).unlink(missing_ok=True)
    _description(home).unlink(missing_ok=True)
    print("Hortus is stopped." if pid is not None else "Hortus was not running.")
    return 0


def status() -> int:
    """Print every part with its memory and what it misses; return 0 when all are ready."""
    home = Home(home_path())
    if _supervisor(home) is None or not _description(home).exists():
        print("Hortus is not running; start it with `make up`.")
        return 1
    described = _described(home)
    total, troubled = 0, 0
    for name, port in described["parts"].items():
        record = home.run / "processes" / f"{name}.json"
        pid = json.loads(record.read_text())["pid"] if record.exists() else None
        memory = resident(pid) if pid is not None else 0
        missing, warnings = operators.condition(port, home.tls_folder(RUNNER)) if port and memory else ([], [])
        if memory == 0:
            missing = ["it does not run"]
        total += memory
        troubled += bool(missing)
        print(f"{'✗' if missing else '!' if warnings else '✔'} {name:<16} {memory / 2**20:6.0f} MiB  {'; '.join([*missing, *warnings])}")
    print(f"  {'together':<16} {total / 2**20:6.0f} MiB  {described['address']}")
    for warning in authorities.ending_soon(home):
        print(f"! {warning}")
    return 1 if troubled else 0


def migrate() -> int:
    """Bring the running suite's databases up to date."""
    home = Home(home_path())
    if _supervisor(home) is None:
        raise SetupProblem("Hortus is not running; `make up` starts it and brings its databases up to date.")
    bring_up_to_date(Postgres(home), Service)
    print("the databases are up to date")
    return 0


def recover(arguments: list[str]) -> int:
    """Give an administrator who cannot sign in a new one-time link; ``arguments`` are those of ``services.auth.recover``."""
    home = Home(home_path())
    if _supervisor(home) is None or not _description(home).exists():
        raise SetupProblem("Hortus is not running; `make up` starts it, then recover the account.")
    address, _ = Postgres(home).provision(Service.AUTH)
    environment = {
        "HORTUS_DATABASE_URL": address,
        "HORTUS_MASTER_KEY_FILE": str(home.secret_file(f"{Service.AUTH}.master-key")),
        "HORTUS_ORIGINS": json.dumps(_described(home)["origins"]),
        **_described(home)["settings"],
    }
    return subprocess.run(
        [sys.executable, "-m", "services.auth.recover", *arguments], cwd=REPOSITORY, env=base_environment(**environment), check=False
    ).returncode


def pki(arguments: list[str]) -> int:
    """Show or renew the home's authorities; ``arguments`` are those of ``compose.local.ceremony``."""
    return ceremony.command(Home(home_path()), arguments)


def supervise() -> int:
    """Hold the suite until told to stop. Started by `up`; its standard output is the progress that `up` shows."""
    home = Home(home_path())
    lock = _take_lock(home)
    if lock is None:
        raise SetupProblem("Another runner holds this home; see `make status`.")
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            if not started:
                raise SystemExit(1)

    started = False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keep(_pid_file(home), json.dumps({"pid": os.getpid(), "started": started_at(os.getpid())}).encode())
    ports = _ports()
    suite = Suite(
        home,
        people_port=ports["HORTUS_PEOPLE_PORT"],
        certificate_port=ports["HORTUS_CERTIFICATE_PORT"],
        host=_host(),
        names=[name for name in os.environ.get("HORTUS_HOSTNAMES", "").split(",") if name],
        replicas=_replicas(),
        respawn=True,
        certificate_life=_certificate_life(),
        settings={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        progress=_tell,
        announce=_announce,
    )
    try:
        suite.start()
        started = True
        keep(_description(home), json.dumps(suite.describe()).encode())
        _to_foreground(READY_LINE)
        _detach()
        _reap_until(stop)
    except SetupProblem as problem:
        _tell(str(problem))
        return 1
    finally:
        started = True
        suite.stop()
        _end_adopted()
        _description(home).unlink(missing_ok=True)
        _pid_file(home).unlink(missing_ok=True)
        os.close(lock)
    return 0


def _already(home: Home) -> int:
    if not _description(home).exists():
        print("Hortus is just starting or stopping; `make status` shows how far it is.")
        return 1
    print(_closing(home, f"Hortus runs already: {_described(home)['address']}"))
    return 0


def _closing(home: Home, first: str) -> str:
    link = setup_link(home, _described(home)["address"])
    lines = [first]
    if link is not None:
        lines.append(f"  first administrator  {link}   (works once, for 24 h)")
    lines += [
        f"  trust                {home.trust / 'root.pem'}   (import it as an authority in the browser, or `curl --cacert`)",
        f"  logs                 {home.log}",
        "  stop                 make down",
    ]
    return "\n".join(lines)


def _show(runner: subprocess.Popen[str]) -> bool:
    if runner.stdout is None:
        return False
    for line in runner.stdout:
        if line.rstrip("\n") == READY_LINE:
            return True
        print(line, end="", flush=True)
    return False


def _tell(sentence: str) -> None:
    print(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {sentence}", file=sys.stderr, flush=True)
    _to_foreground(sentence)


def _announce(passphrase: str) -> None:
    _to_foreground(f"The root's passphrase, shown this once and kept nowhere: {passphrase}")


def _to_foreground(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _detach()


def _detach() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def _reap_until(stop: threading.Event) -> None:
    # the kernel hands this process what its children leave behind; whoever is still dead at the second look is nobody else's
    seen: set[int] = set()
    while not stop.wait(REAP_SECONDS):
        dead = {child.pid for child in psutil.Process().children() if started_at(child.pid) is None}
        for pid in dead & seen:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        seen = dead


def _end_adopted() -> None:
    # what a child of a child left behind was handed to this process by the kernel
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _ports() -> dict[str, int]:
    found = {}
    for setting, usual in (("HORTUS_PEOPLE_PORT", PEOPLE_PORT), ("HORTUS_CERTIFICATE_PORT", CERTIFICATE_PORT)):
        text = os.environ.get(setting) or str(usual)
        if not text.isdecimal() or not 0 < int(text) < 65536:
            raise SetupProblem(f"{setting} is {text!r}; set it to a port between 1 and 65535.")
        found[setting] = int(text)
    return found


def _replicas() -> int:
    text = os.environ.get("HORTUS_REPLICAS") or "1"
    if not text.isdecimal() or not 0 < int(text) <= MOST_REPLICAS:
        raise SetupProblem(f"HORTUS_REPLICAS is {text!r}; set it to a number between 1 and {MOST_REPLICAS}.")
    return int(text)


def _certificate_life() -> timedelta:
    """How long certificates of services live: `HORTUS_CERTIFICATE_S`, or the usual time."""
    text = os.environ.get("HORTUS_CERTIFICATE_S") or str(round(SERVICE_LIFETIME.total_seconds()))
    if not text.isdecimal() or not SHORTEST_LIFE_S <= int(text) <= LONGEST_LIFE_S:
        raise SetupProblem(
            f"HORTUS_CERTIFICATE_S is {text!r}; set it to a number of seconds between {SHORTEST_LIFE_S} and {LONGEST_LIFE_S}."
        )
    return timedelta(seconds=int(text))


def _host() -> str:
    return os.environ.get("HORTUS_HOST") or "127.0.0.1"


def _supervisor(home: Home) -> int | None:
    """The pid of the home's supervisor, where it lives; a pid that another process has by now is not it."""
    try:
        known = json.loads(_pid_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return int(known["pid"]) if started_at(known["pid"]) == known["started"] else None


def _take_lock(home: Home) -> int | None:
    handle = os.open(home.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _holds_lock(home: Home) -> bool:
    handle = _take_lock(home)
    if handle is None:
        return True
    os.close(handle)
    return False


def _pid_file(home: Home) -> Path:
    return home.run / "supervisor.pid"


def _description(home: Home) -> Path:
    return home.run / "suite.json"


def _described(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_description(home).read_text())
    return found
