"""Child processes that end with the runner, are found again after its crash, and say why they did not start."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from compose.local.account import Account, current
from compose.local.home import Home, keep, working_in
from compose.local.problems import SetupProblem, tail

T = TypeVar("T")
LAUNCH = Path(__file__).with_name("launch.py")
POLL_SECONDS = 0.05
RECORDS = "processes"
LOG_BYTES = 32 * 1024 * 1024


class _Spawner:
    """One thread that starts every child: the kernel ends a child with the *thread* that started it."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._pid = 0

    def run(self, start: Callable[[], T]) -> T:
        """Call ``start`` in the lasting thread and return what it returned, or raise what it raised."""
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def order() -> None:
            try:
                answers.put((start(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                answers.put((None, error))

        with self._lock:
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._work, name="spawner", daemon=True)
                self._thread.start()
        self._orders.put(order)
        result, error = answers.get()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def _work(self) -> None:
        while True:
            self._orders.get()()


_spawner = _Spawner()


def boot_id() -> str:
    """Which start of the machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_at(pid: int) -> str | None:
    """When the process ``pid`` started, as boot and clock ticks; None where it does not live. A reused pid differs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in {"Z", "X"} else f"{boot_id()}:{fields[19]}"


class Child:
    """One child process with its log, in a session of its own."""

    def __init__(
        self,
        home: Home,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        *,
        account: Account | None = None,
        folder: Path | None = None,
        umask: int = 0o077,
    ) -> None:
        """Nothing starts yet; ``environment`` is all that the child sees."""
        self.home = home
        self.name = name
        self.command = [str(part) for part in command]
        self.environment = dict(environment)
        self.account = account or current()
        self.folder = folder or Path("/")
        self.umask = umask
        self.log = home.log_file(name)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def pid(self) -> int:
        """The process id; raises SetupProblem while it does not run."""
        if self._process is None:
            raise SetupProblem(f"{self.name} is not running; start it first.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How the child ended; None while it runs or before it started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the child; it is killed when this process ends, however that happens."""
        if self.running:
            return
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        switch = [self.account.uid, self.account.gid] if self.account.switch else [-1, -1]
        command = [sys.executable, "-I", "-S", str(LAUNCH), *map(str, switch), str(self.umask), str(os.getpid()), *self.command]

        def popen() -> subprocess.Popen[bytes]:
            with self.log.open("ab") as log:
                self._log_from = log.tell()
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    cwd=self.folder,
                    start_new_session=True,
                    close_fds=True,
                )

        self._process = _spawner.run(popen)
        record = {"pid": self._process.pid, "started": started_at(self._process.pid)}
        keep(_records(self.home) / f"{self.name}.json", json.dumps(record).encode())

    def stop(self, seconds: float = 20.0, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the child to end with signal ``number``; after ``seconds`` kill it and all it started. Safe to repeat."""
        if self._process is None:
            return
        family = self._descendants()
        if self.running:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self._end(family)

    def kill(self) -> None:
        """Kill the child and all it started, at once, as a crash would."""
        if self._process is not None:
            self._end(self._descendants())

    def pause(self) -> None:
        """Stop the child's clockwork (SIGSTOP): it lives, keeps its connections and does nothing."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused child go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def resident(self) -> int:
        """Resident memory of the child and all its descendants in bytes."""
        return resident(self._process.pid) if self._process is not None else 0

    def wait_until(self, ready: Callable[[], bool], seconds: float, fix: str = "") -> None:
        """Return once ``ready`` says so; raises SetupProblem with the log's end when the child ended or time ran out."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise self.problem(f"{self.name} ended with status {self.exit_code} before it was ready", fix)
            if time.monotonic() > deadline:
                raise self.problem(f"{self.name} was not ready within {seconds:.0f} s", fix)
            time.sleep(POLL_SECONDS)

    def wait_for_end(self, seconds: float) -> None:
        """Return when the child ended with status 0; raises SetupProblem with the log's end otherwise."""
        if self._process is None:
            raise SetupProblem(f"{self.name} is not running; start it first.")
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.problem(f"{self.name} did not end within {seconds:.0f} s") from None
        if status != 0:
            raise self.problem(f"{self.name} ended with status {status}")

    def said(self) -> str:
        """What the child wrote to its log since it was started last."""
        with self.log.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode(errors="replace")

    def problem(self, sentence: str, fix: str = "") -> SetupProblem:
        """``sentence``, what to do about it, and the end of the log."""
        return SetupProblem(f"{sentence}; {fix or 'its log says why'}: {self.log}\n{tail(self.log)}")

    def _descendants(self) -> list[psutil.Process]:
        # a PostgreSQL's processes are in groups of their own, so the child's group is not all that there is
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def _end(self, family: list[psutil.Process]) -> None:
        if self._process is None:
            return
        _kill_group(self._process.pid)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        (self.home.run / RECORDS / f"{self.name}.json").unlink(missing_ok=True)


def resident(pid: int) -> int:
    """Resident memory of a process and all its descendants in bytes; what they share is counted once. 0 where it is gone."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                try:
                    total += process.memory_full_info().pss
                except psutil.AccessDenied:
                    total += process.memory_info().rss
    return total


def end_leftovers(home: Home) -> list[str]:
    """Kill the children that a runner of ``home`` left behind, with all they started, and return their names.

    A pid that another process has by now is let be; so is everything recorded before the machine's last start.
    """
    ended: list[str] = []
    if not home.path.exists():
        return ended
    for record in sorted((home.run / RECORDS).glob("*.json")):
        known = json.loads(record.read_text())
        same_boot = known["started"] is not None and known["started"].startswith(f"{boot_id()}:")
        # a group's number is not given to another process while one of its members lives
        if same_boot and started_at(known["pid"]) in {known["started"], None} and _kill_group(known["pid"]):
            ended.append(record.stem)
        record.unlink(missing_ok=True)
    for pid in working_in(home.data):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return ended


def base_environment(**more: str) -> dict[str, str]:
    """What every child may see of the runner's environment, and ``more``."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def _records(home: Home) -> Path:
    folder = home.run / RECORDS
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def _kill_group(group: int) -> bool:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
