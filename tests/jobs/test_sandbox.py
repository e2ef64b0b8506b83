"""The sandbox for real: what a program tries in it, and what of it touches the machine."""

import asyncio
import contextlib
import os
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.jobs.sandbox import cage, environments, files, limits
from services.jobs.sandbox.tail import KEPT, Tail

MIB = 1024 * 1024
NOBODY = 65534
SECRET = "patient-7-has-a-tumour"


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> cage.Machine:
    return cage.machine(tmp_path_factory.mktemp("agent"), None, None)


@pytest.fixture
def order(tmp_path: Path) -> cage.Order:
    return cage.Order(
        run=tmp_path.name,
        program="",
        arguments=(),
        environment=environments.find("python", tmp_path),
        inputs=({"dataset_id": "d1", "name": "wdbc", "folder": "wdbc"},),
        input_bytes=files.room_for([len(SECRET)]),
        output_bytes=4 * MIB,
        memory=192 * MIB,
        cores=1,
        wall_seconds=30,
    )


@contextlib.asynccontextmanager
async def started(machine: cage.Machine, order: cage.Order, program: str) -> AsyncIterator[cage.Cage]:
    async with cage.prepared(machine, replace(order, program=textwrap.dedent(program))) as box:
        opened = files.create(box.inputs, "wdbc/table.csv")
        os.write(opened, SECRET.encode())
        os.close(opened)
        await box.start()
        yield box


async def said(machine: cage.Machine, order: cage.Order, program: str) -> str:
    """What a program prints; it must end well."""
    async with started(machine, order, program) as box:
        ending = await box.ended()
        text = bytes(box.log.kept).decode()
        assert ending == cage.Ending(0, None), text
        return text


async def test_a_program_reads_its_inputs_and_leaves_outputs_and_metrics(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import hortus
        text = (hortus.inputs["wdbc"] / "table.csv").read_text()
        assert hortus.inputs["d1"] == hortus.inputs.only()
        (hortus.outputs / "out.txt").write_text(text.upper())
        hortus.metric("loss", 0.5)
        hortus.metric("loss", 0.25)
    """
    async with started(machine, order, program) as box:
        assert await box.ended() == cage.Ending(0, None)
        (output,) = files.outputs(box.outputs)
        assert (output.path, os.read(files.open_output(box.outputs, output), 99)) == ("out.txt", SECRET.upper().encode())
        assert files.metrics(box.metrics) == {"loss": 0.25}


async def test_there_is_no_network_and_no_other_socket_family(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import socket
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40, 38):
            try:
                socket.socket(family, socket.SOCK_RAW if family == socket.AF_NETLINK else socket.SOCK_STREAM)
                print("OPENED", family)
            except PermissionError:
                pass
        try:
            socket.create_connection(("127.0.0.1", 22), 1)
            print("REACHED")
        except OSError as error:
            print(type(error).__name__)
        a, b = socket.socketpair()
        a.send(b"x")
        print(b.recv(1))
    """
    assert await said(machine, order, program) == "PermissionError\nb'x'\n"


async def test_the_files_of_the_machine_are_not_there(machine: cage.Machine, order: cage.Order, tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text(SECRET)
    (tmp_path / "open.txt").chmod(0o644)
    wanted = [
        str(tmp_path / "open.txt"),
        "/etc/shadow",
        "/etc/hostname",
        str(Path.home() / ".bashrc"),
        str(Path(__file__)),
        "/proc/1/root/etc/shadow",
    ]
    program = f"""
        import os
        for path in {wanted!r}:
            try:
                print("READ", path, len(open(path).read()))
            except OSError:
                pass
        print(sorted(set(os.listdir("/")) & {{"home", "var", "work", "srv", "mnt", "opt", "run", "boot", "sys", "launch", "inputs"}}))
        print(open("/etc/passwd").read().count("\\n"))
    """
    assert await said(machine, order, program) == "[]\n1\n"


async def test_the_program_is_not_root_and_holds_no_rights(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import os
        print(os.getresuid() + os.getresgid())
        status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        print({status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, status["NoNewPrivs"], status["Seccomp"])
    """
    ids, rights = (await said(machine, order, program)).splitlines()
    account = machine.account
    assert ids == str((account.user,) * 3 + (account.group,) * 3)
    assert rights == "{'0000000000000000'} 1 2"


async def test_the_machine_knows_the_program_as_an_ordinary_user(machine: cage.Machine, order: cage.Order) -> None:
    async with started(machine, order, "import time\nprint('up', flush=True)\ntime.sleep(60)") as box:
        running = asyncio.create_task(box.ended())
        while box.log.end == 0 and not running.done():
            await asyncio.sleep(0.01)
        inside = psutil.Process(box.process.pid).children(recursive=True)
        assert len(inside) >= 2
        assert {tuple(process.uids()) for process in inside} == {(machine.account.user,) * 3}
        assert machine.account.user != 0
        await box.kill()
        await running


async def test_the_program_sees_no_process_but_its_own(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import os
        names = [open(f"/proc/{pid}/comm").read().strip() for pid in os.listdir("/proc") if pid.isdigit()]
        print(sorted(name[:6] for name in names))
        try:
            os.kill(-1, 0)
        except OSError:
            pass
    """
    assert (await said(machine, order, program)).startswith("['bwrap', 'python")


async def test_the_environment_carries_nothing_of_the_agent(
    machine: cage.Machine, order: cage.Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORTUS_VALKEY_URL", "redis+socket:///secret")
    program = "import os; print({k: v for k, v in os.environ.items() if 'VALKEY' in k}, open('/proc/1/environ').read().count('VALKEY'), sorted(os.listdir('/proc/self/fd')))"
    assert await said(machine, order, program) == "{} 0 ['0', '1', '2', '3']\n"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("ptrace", (16, 1, 0, 0)),
        ("process_vm_readv", (1, 0, 0, 0, 0, 0)),
        ("keyctl", (0, 0, 0, 0, 0)),
        ("bpf", (0, 0, 0)),
        ("mount", (0, 0, 0, 0, 0)),
        ("umount2", (0, 0)),
        ("unshare", (0x10000000,)),
        ("setns", (0, 0)),
        ("io_uring_setup", (1, 0)),
        ("perf_event_open", (0, 0, 0, 0, 0)),
        ("kexec_load", (0, 0, 0, 0)),
        ("init_module", (0, 0, 0)),
        ("userfaultfd", (0,)),
        ("open_by_handle_at", (0, 0, 0)),
        ("pivot_root", (0, 0)),
        ("chroot", (0,)),
        ("clone_newuser", (0x10000000 | 17, 0, 0, 0, 0)),
        ("socket_with_high_bits", (1 << 32 | 2, 1, 0)),
    ],
)
async def test_dangerous_system_calls_answer_not_permitted(
    machine: cage.Machine, order: cage.Order, call: str, arguments: tuple[int, ...]
) -> None:
    numbers = {
        "ptrace": 101,
        "process_vm_readv": 310,
        "keyctl": 250,
        "bpf": 321,
        "mount": 165,
        "umount2": 166,
        "unshare": 272,
        "setns": 308,
        "io_uring_setup": 425,
        "perf_event_open": 298,
        "kexec_load": 246,
        "init_module": 175,
        "userfaultfd": 323,
        "open_by_handle_at": 304,
        "pivot_root": 155,
        "chroot": 161,
        "clone_newuser": 56,
        "socket_with_high_bits": 41,
    }
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    values = ", ".join(f"ctypes.c_ulong({value})" for value in (numbers[call], *arguments))
    program = f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({values}), errno.errorcode[ctypes.get_errno()])
    """
    assert await said(machine, order, program) == "-1 EPERM\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 calls exist on x86_64 alone")
async def test_calls_of_another_architecture_kill_the_program(machine: cage.Machine, order: cage.Order) -> None:
    program = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_ulong(0x40000000 | 39)); print('SURVIVED')"
    async with started(machine, order, program) as box:
        ending = await box.ended()
        assert (ending.exit_code, ending.reason, box.log.end) == (128 + 31, "The program was ended by SIGSYS.", 0)


async def test_what_is_not_the_programs_is_read_only(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import os, sys
        for path in ("/x", "/dev/x", "/etc/passwd", "/hortus/inputs/x", "/hortus/inputs/wdbc/table.csv", "/hortus/program/program.py", "/usr/x",
                     os.path.join(sys.prefix, "x"), os.__file__):
            try:
                open(path, "a")
                print("WROTE", path)
            except OSError:
                pass
        for path in ("/tmp/x", "/dev/shm/x", "/hortus/outputs/x", "/hortus/metrics/x"):
            open(path, "w").close()
    """
    assert await said(machine, order, program) == ""


async def test_the_wall_clock_ends_the_program_and_its_children(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                break
        print("here", flush=True)
        while True:
            time.sleep(1)
    """
    began = time.monotonic()
    async with started(machine, replace(order, wall_seconds=1), program) as box:
        ending = await box.ended()
        assert ending == cage.Ending(None, "The program ran longer than its 1 seconds and was ended.")
        assert time.monotonic() - began < 6
        assert left_behind(box) == []


async def test_children_do_not_outlive_the_program(machine: cage.Machine, order: cage.Order) -> None:
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n"
    async with started(machine, order, program) as box:
        assert await asyncio.wait_for(box.ended(), 10) == cage.Ending(0, None)
        async with asyncio.timeout(5):  # the kernel has killed them; until it has cleared them away, they are on the list
            while left_behind(box):
                await asyncio.sleep(0.01)


async def test_killing_the_sandbox_kills_everything_in_it(machine: cage.Machine, order: cage.Order) -> None:
    async with started(machine, order, "import os, time\nos.fork()\nprint('up', flush=True)\ntime.sleep(60)") as box:
        running = asyncio.create_task(box.ended())
        while box.log.end < len("up\nup\n"):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await box.kill()
        assert time.monotonic() - began < 0.5
        assert left_behind(box) == []
        assert (await running).exit_code is None


async def test_a_fork_bomb_is_bounded_and_ended(machine: cage.Machine, order: cage.Order) -> None:
    program = """
        import os, time
        made = 0
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                made += 1
            except OSError:
                print(made, flush=True)
                break
        time.sleep(60)
    """
    async with started(machine, replace(order, wall_seconds=20, memory=1024 * MIB), program) as box:
        running = asyncio.create_task(box.ended())
        while b"\n" not in box.log.kept and not running.done():
            await asyncio.sleep(0.05)
        assert int(bytes(box.log.kept).split()[0]) <= limits.PROCESSES
        await box.kill()
        await running
        assert left_behind(box) == []


async def test_a_memory_bomb_is_ended_and_named(machine: cage.Machine, order: cage.Order) -> None:
    async with started(
        machine, order, "kept = []\nwhile True:\n    kept.append(bytearray(8 << 20))\n    print(len(kept), flush=True)"
    ) as box:
        ending = await box.ended()
        held = int([line for line in bytes(box.log.kept).decode().splitlines() if line.isdigit()][-1]) * 8
        assert held <= 192
        assert ending.reason is not None
        assert ending.exit_code != 0
        if machine.groups is not None:
            assert ending.reason == "The program used more than its 192 MiB of memory."


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/hortus/outputs", "/hortus/metrics"])
async def test_folders_that_can_be_written_have_an_end(machine: cage.Machine, order: cage.Order, folder: str) -> None:
    program = f"""
        import itertools, os
        try:
            for number in itertools.count():
                with open(f"{folder}/{{number}}", "wb") as file:
                    file.write(bytes(1 << 20))
        except OSError as error:
            print(number, error.errno)
    """
    many, number = (await said(machine, replace(order, memory=256 * MIB), program)).split()
    assert (int(many) <= 128, number) == (True, "28")


async def test_a_flood_of_output_keeps_its_end_and_fills_nothing(machine: cage.Machine, order: cage.Order) -> None:
    program = "import sys\nfor n in range(300_000):\n    print('line', n)\nprint('the end', file=sys.stderr)"
    async with started(machine, order, program) as box:
        assert await box.ended() == cage.Ending(0, None)
        assert box.log.end > 3 * MIB
        assert len(box.log.kept) <= KEPT
        assert bytes(box.log.kept).endswith(b"the end\n")


async def test_no_input_is_ever_on_disk_or_in_the_machines_mounts(machine: cage.Machine, order: cage.Order) -> None:
    async with started(machine, order, "import time\nprint('up', flush=True)\ntime.sleep(60)") as box:
        running = asyncio.create_task(box.ended())
        while box.log.end == 0 and not running.done():
            await asyncio.sleep(0.01)
        assert list(machine.stage.iterdir()) == []
        assert str(machine.stage) not in Path("/proc/self/mounts").read_text()
        assert os.fstatvfs(box.inputs).f_blocks * os.fstatvfs(box.inputs).f_frsize <= 2 * MIB
        found = [path for path in machine.stage.parent.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
        assert found == []
        await box.kill()
        await running


@pytest.mark.parametrize(
    "left",
    [
        "os.symlink('/etc/passwd', out + '/x')",
        "os.symlink('/etc', out + '/x')",
        "os.mkfifo(out + '/x')",
        "socket.socket(socket.AF_UNIX).bind(out + '/x')",
        "open(out + '/a\\nb', 'w').close()",
        "open(out.encode() + b'/\\xff', 'w').close()",
        "open(out + '/a\\\\b', 'w').close()",
        "os.makedirs(out + '/d' * 20); open(out + '/d' * 20 + '/x', 'w').close()",
    ],
)
async def test_outputs_that_are_no_ordinary_files_are_refused(machine: cage.Machine, order: cage.Order, left: str) -> None:
    async with started(machine, order, f"import os, socket, hortus\nout = str(hortus.outputs)\n{left}") as box:
        assert await box.ended() == cage.Ending(0, None)
        with pytest.raises(files.Refused):
            files.outputs(box.outputs)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a//x", "", ".", "a/.", "x\0y", "a\\b", "x" * 256, "a/" * 20 + "x"])
async def test_inputs_with_paths_that_lead_elsewhere_are_refused(path: str, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(files.Refused):
            files.create(folder, path)
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(folder)


async def test_an_input_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    folder = os.open(tmp_path / "in", os.O_RDONLY)
    try:
        with pytest.raises(OSError):
            files.create(folder, "link/x")
    finally:
        os.close(folder)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("written", "metrics"),
    [
        ('["a", 1]\n["a", 2]\nnonsense\n', {"a": 2.0}),
        ('["a", NaN]\n["b", 1e999]\n["c", "x"]\n["d"]\n[1, 2]\n[["e"], 1]\n["../f", 1]\n["ok/f", 1]', {"ok/f": 1.0}),
        ("[" * 100_000, {}),
        ("".join(f'["m{n}", 1]\n' for n in range(300)), {f"m{n}": 1.0 for n in range(100)}),
    ],
)
def test_metrics_are_taken_as_far_as_they_are_metrics(tmp_path: Path, written: str, metrics: dict[str, float]) -> None:
    (tmp_path / "metrics").write_text(written)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert files.metrics(folder) == metrics
    finally:
        os.close(folder)


def test_metrics_are_not_read_through_a_link_or_a_pipe(tmp_path: Path) -> None:
    for name in ("link", "pipe"):
        (tmp_path / name).mkdir()
        if name == "link":
            (tmp_path / name / "metrics").symlink_to("/etc/passwd")
        else:
            os.mkfifo(tmp_path / name / "metrics")
        folder = os.open(tmp_path / name, os.O_RDONLY)
        try:
            assert files.metrics(folder) == {}
        finally:
            os.close(folder)


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 50))
def test_a_tail_counts_the_text_that_it_gives(pieces: list[bytes], part: int) -> None:
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    tail.add(b"", last=True)
    whole = b"".join(pieces).decode(errors="replace").replace("\0", "\ufffd")
    assert (tail.end, bytes(tail.kept).decode()) == (len(whole.encode()), whole)
    gathered, offset = "", 0
    while offset < tail.end:
        start, text = tail.since(offset, max(part, 4))
        assert (start, bool(text)) == (offset, True)
        gathered += text
        offset += len(text.encode())
    assert gathered == whole


def test_a_program_is_never_run_as_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root could try")
    for name in ("root", "no-such-user"):
        with pytest.raises(cage.NoSandbox):
            cage.machine(tmp_path, None, name)


def test_without_bubblewrap_nothing_is_run(tmp_path: Path) -> None:
    with pytest.raises(cage.NoSandbox, match="HORTUS_BWRAP"):
        cage.machine(tmp_path, tmp_path / "missing", None)


@pytest.mark.parametrize("name", ["../../etc", "", "Torch", "a/b", "x" * 40, "fortran"])
def test_environments_are_found_by_plain_names_only(name: str, tmp_path: Path) -> None:
    with pytest.raises(environments.UnknownEnvironment):
        environments.find(name, tmp_path)


def test_an_environment_that_would_show_a_whole_folder_of_the_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "bin").mkdir(parents=True)
    (tmp_path / "home" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bad").symlink_to(tmp_path / "home")
    assert str(tmp_path / "home") in environments.find("bad", tmp_path).trees
    monkeypatch.setattr(environments, "BROAD", {tmp_path / "home"})
    with pytest.raises(environments.UnknownEnvironment, match="whole folder"):
        environments.find("bad", tmp_path)


def left_behind(box: cage.Cage) -> list[int]:
    """Processes of the run that still live: all have bubblewrap's number or the run's group."""
    if box.group is None:
        return [box.process.pid] if box.process.returncode is None else []
    return [int(pid) for folder in box.group.folders.values() for pid in (folder / "cgroup.procs").read_text().split()]


def test_the_machine_says_where_it_swaps_to(tmp_path: Path) -> None:
    table = tmp_path / "swaps"
    table.write_text("Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 8388604 0 -2\n/dev/zram0 partition 4194300 0 100\n")
    assert cage.swaps(table) == ["/dev/sda2"]
    assert cage.swaps(tmp_path / "none") == []
