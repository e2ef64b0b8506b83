"""The system-call filter of a run: what is dangerous is refused, and sockets can only be of the run's own family."""

import errno
import os
import tempfile

import pyseccomp

AF_UNIX = 1
TIOCSTI = 0x5412
TIOCLINUX = 0x541C
TIOCSETD = 0x5423

NEW_NAMESPACES = (
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)

REFUSED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "perf_event_open"),
    *("keyctl", "add_key", "request_key", "bpf", "userfaultfd", "lookup_dcookie", "syslog", "acct", "quotactl"),
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at"),
    *("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "fanotify_init"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "io_submit"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup"),
    *("iopl", "ioperm", "modify_ldt", "uselib", "ustat", "sysfs", "nfsservctl", "vmsplice", "personality"),
)
# Numbers from 424 on are the same on every architecture; older filter libraries do not know these names.
REFUSED_NUMBERS = {"pidfd_getfd": 438, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "open_tree_attr": 467}


class NoFilter(Exception):
    """The filter library cannot be used on this machine; no program is run without a filter."""


def bpf() -> bytes:
    """The filter as BPF instructions, as bubblewrap's ``--seccomp`` reads them.

    Refused calls answer EPERM; ``clone3`` answers ENOSYS, so that the C library falls back to ``clone``, whose flags a
    filter can see. Calls of another architecture, 32-bit ones included, kill the process. Raises NoFilter.
    """
    try:
        made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        refuse = pyseccomp.ERRNO(errno.EPERM)
        for name in REFUSED:
            _refuse_if_known(made, refuse, name)
        for number in REFUSED_NUMBERS.values():
            made.add_rule(refuse, number)
        made.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        for flag in NEW_NAMESPACES:
            made.add_rule(refuse, "clone", pyseccomp.Arg(_flags_of_clone(), pyseccomp.MASKED_EQ, flag, flag))
        for name in ("socket", "socketpair"):
            made.add_rule(refuse, name, pyseccomp.Arg(0, pyseccomp.NE, AF_UNIX))
        for request in (TIOCSTI, TIOCLINUX, TIOCSETD):
            made.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
        with tempfile.TemporaryFile() as file:
            made.export_bpf(file)
            file.seek(0)
            return file.read()
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise NoFilter(f"libseccomp: {error}") from error


def _refuse_if_known(made: pyseccomp.SyscallFilter, refuse: int, name: str) -> None:
    """Add a refusal; a call that this architecture never had needs none."""
    try:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    except (OSError, ValueError):
        return
    if number >= 0:
        made.add_rule(refuse, number)


def _flags_of_clone() -> int:
    """The position of the flags among the arguments of ``clone``; s390 alone has them second."""
    return 1 if os.uname().machine.startswith("s390") else 0
