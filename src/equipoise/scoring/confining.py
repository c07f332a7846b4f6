"""What a process takes from itself, for good, before it runs a program it does not trust (Linux; standard library only).

Landlock (kernel >= 5.13) leaves it the folders named and, in later versions, no TCP and no signals to others; a filter of
system calls leaves it no new processes, no sockets, no touch of other processes (signals, limits, priorities) and no change
of files' modes, owners, times and attributes, which Landlock leaves alone; resource limits bound memory, files and time. Where
the kernel lacks the first two, an audit hook of Python's refuses much of it as far as calls go through Python: a fence, not a
wall.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Sequence
from typing import Any

_SET_PDEATHSIG, _GET_SECCOMP, _SET_SECCOMP, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 21, 22, 36, 38
_KILL = 9

_CAPABILITY_VERSION = 0x20080522

# Landlock: the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11  # character device, socket, pipe, block device
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_TCP, _SCOPES = 3, 3

# seccomp: the calls refused, by architecture (its audit number first).
_DENIED = {
    "x86_64": (
        0xC000003E,
        56,  # clone, refused unless it makes a thread
        (
            *(57, 58, 59, 322),  # fork, vfork, execve, execveat
            *(41, 42, 49, 50, 425),  # socket, connect, bind, listen, io_uring_setup
            *(
                29,
                30,
                31,
                64,
                65,
                66,
                68,
                69,
                70,
                71,
                220,
                240,
                241,
            ),  # shared memory, semaphores and queues of System V and POSIX
            *(101, 310, 311, 312, 256, 279, 438, 440, 448),  # ptrace, process_vm_*, kcmp, *_pages, pidfd_getfd, process_m*
            *(141, 142, 144, 203, 251, 314, 424),  # setpriority, sched_set*, ioprio_set, pidfd_send_signal
            *(76, 90, 91, 92, 93, 94, 260, 268, 452, 469),  # truncate, chmod, chown and what else is alike
            *(132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 463, 466),  # utime*, setxattr, removexattr
            *(165, 248, 249, 250, 272, 298, 308, 321),  # mount, keys, unshare, perf_event_open, setns, bpf
        ),
        (62, 129, 200, 234, 297, 302),  # kill, rt_sigqueueinfo, tkill, tgkill, rt_tgsigqueueinfo, prlimit64
        72,
        16,
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (
            *(221, 281),
            *(198, 200, 201, 203, 425),
            *(180, 181, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196),
            *(117, 270, 271, 272, 238, 239, 438, 440, 448),
            *(30, 118, 119, 122, 140, 274, 424),
            *(45, 52, 53, 54, 55, 452, 469),
            *(5, 6, 7, 14, 15, 16, 88, 463, 466),
            *(40, 97, 217, 218, 219, 241, 268, 280),
        ),
        (129, 130, 131, 138, 240, 261),
        25,
        29,
    ),
}
"""First its audit number and clone's; then what is refused; what is refused but for itself; fcntl and ioctl."""

_NO_FCNTL = (8, 10, 15)
"""To have signals sent to others: F_SETOWN, F_SETSIG, F_SETOWN_EX."""

_NO_IOCTL = (0x8901, 0x8902, 0x40086602, 0x40046602, 0x401C5820)
"""The same (FIOSETOWN, SIOCSPGRP), and a file's flags (FS_IOC_SETFLAGS, its 32-bit form, FS_IOC_FSSETXATTR)."""

_CLONE3, _CLONE_THREAD, _X32 = 435, 0x10000, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000

libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that made it ends."""
    libc.prctl(_SET_PDEATHSIG, _KILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none can slip away."""
    libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)


def limit(*, memory: int, file_bytes: int, cpu_seconds: int) -> None:
    """Bound what may be taken on top of what this process holds by now; ``memory`` in bytes of address space."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - this runs after a fork, with as little as can be
        held = int(file.read().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, held + memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def confine(readable: Sequence[str], listable: Sequence[str], writable: str, forbidden: Sequence[str] = ()) -> list[str]:
    """Give up all that a program does not need; return a line on each protection that this system lacks.

    Files under ``readable`` may be read, folders under ``listable`` listed, and ``writable`` is the program's own.
    ``forbidden`` names kernel protections to do without, as on a system that lacks them: ``landlock``, ``seccomp``.
    """
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities()
    missing = []
    version = 0 if "landlock" in forbidden else landlock_version()
    if version < 1:
        missing.append("no Landlock here: files are guarded by Python's audit hook only, so not where torch or numpy open them")
    else:
        _landlock(version, readable, listable, writable)
    if "seccomp" in forbidden or not _filter_calls():
        missing.append(
            "no call filter here: new processes are killed afterwards, other processes and files' modes are in reach"
        )
    if missing:
        _fence((*readable, *listable), writable)
    return missing


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has, below 1 where it has none."""
    return int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def is_protected(forbidden: Sequence[str] = ()) -> bool:
    """Whether this system has both protections that programs of others need, less those to do without."""
    return not forbidden and landlock_version() >= 1 and can_filter_calls()


def _drop_capabilities() -> None:
    """Keep none of the powers of root, where this is root: to raise limits, to set the clock, to read what is not its own."""
    libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))


def _landlock(version: int, readable: Sequence[str], listable: Sequence[str], writable: str) -> None:
    handled = _RIGHTS_BY_VERSION.get(version, (1 << 16) - 1)
    attributes = struct.pack("=QQQ", handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, 8 if version < 4 else 16 if version < 6 else 24, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused the rules")
    for path in readable:
        _allow(ruleset, path, _READ & handled)
    for path in listable:
        _allow(ruleset, path, _READ_DIR)
    _allow(ruleset, writable, handled & ~_MAKE_SPECIAL)
    _allow(ruleset, "/dev/null", (_READ_FILE | _WRITE_FILE) & handled)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock refused to start")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):  # noqa: PTH112
        rights &= _FILE_RIGHTS
    libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    os.close(fd)


def can_filter_calls() -> bool:
    """Whether the filter of system calls knows this architecture's numbers, and the kernel has filters."""
    return platform.machine() in _DENIED and sys.maxsize > 2**32 and libc.prctl(_GET_SECCOMP, 0, 0, 0, 0) >= 0


def _filter_calls() -> bool:
    """Start the filter of system calls; False where there is none."""
    if not can_filter_calls():
        return False
    architecture, clone, denied, own, fcntl, ioctl = _DENIED[platform.machine()]
    refuse, allow = (_RETURN, 0, 0, _REFUSE | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), refuse]
    program += [(_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, _X32), refuse]
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    for number in denied:
        program += [(_EQUAL, 0, 1, number), refuse]
    for number in own:
        to_itself = [(_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, os.getpid()), allow, refuse]
        program += [(_EQUAL, 0, len(to_itself), number), *to_itself]
    for number, commands in ((fcntl, _NO_FCNTL), (ioctl, _NO_IOCTL)):
        others = [step for command in commands for step in ((_EQUAL, 0, 1, command), refuse)]
        program += [(_EQUAL, 0, len(others) + 2, number), (_LOAD, 0, 0, 24), *others, allow]
    program += [(_EQUAL, 1, 0, clone), allow, (_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    return int(libc.prctl(_SET_SECCOMP, 2, header, 0, 0)) == 0


_REFUSED_EVENTS = (
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.exec",
    "os.system",
    "subprocess.",
    "socket.",
    "ctypes.",
    "os.kill",
    "resource.prlimit",
)
_FILE_EVENTS = ("open", "os.listdir", "os.scandir")
_CHANGING_EVENTS = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "os.setxattr",
    "os.removexattr",
)


def _fence(readable: tuple[str, ...], writable: str) -> None:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED_EVENTS):
            raise PermissionError(errno.EPERM, f"{event} is refused")
        if event in _FILE_EVENTS or event in _CHANGING_EVENTS:
            changes = event in _CHANGING_EVENTS or (event == "open" and _writes(arguments))
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                _refuse_path(path, (writable,) if changes else (writable, *readable))

    sys.addaudithook(refuse)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else not str(mode).startswith("r")


def _refuse_path(path: object, allowed: tuple[str, ...]) -> None:
    if path is None or isinstance(path, int):
        return
    real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
    if real != "/dev/null" and not any(real == root or real.startswith(root.rstrip("/") + "/") for root in allowed):
        raise PermissionError(errno.EACCES, "Permission denied", real)
