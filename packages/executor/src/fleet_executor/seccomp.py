"""The system calls that a sandbox allows, as a filter of the kernel. Pure: the bytes that `bwrap --seccomp` reads.

What it adds to the namespaces: no further process (threads are allowed), so that the limits of one process are those of the
whole sandbox, a fork bomb never begins, and nothing is left behind; no memory that the address-space limit does not count
(memfd, System V); no socket but AF_UNIX, which also closes AF_VSOCK, since that knows no namespace; and none of the calls that
escapes have been built from. Numbers after Linux' asm-generic/unistd.h and x86's unistd_64.h, the form after seccomp(2).
"""

import errno
import platform
import struct
from typing import Optional

import msgspec

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
X32_BIT = 0x40000000
CLONE_THREAD = 0x10000
AF_UNIX = 1


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one architecture. `audit` is its AUDIT_ARCH."""

    audit: int
    clone: int
    socket: int
    denied: str


# Both in the same order: fork and vfork (x86 only); ptrace process_vm_readv process_vm_writev kcmp; memfd_create shmget msgget
# semget mq_open; unshare setns mount umount2 pivot_root chroot; bpf userfaultfd perf_event_open fanotify_init io_setup;
# name_to_handle_at open_by_handle_at; add_key request_key keyctl; init_module delete_module finit_module kexec_load
# kexec_file_load; reboot swapon swapoff quotactl acct syslog vhangup personality; sethostname setdomainname settimeofday
# adjtimex clock_settime clock_adjtime; migrate_pages move_pages mbind set_mempolicy; iopl ioperm modify_ldt (x86 only).
_X86_64 = """57 58 101 310 311 312 319 29 68 64 240 272 308 165 166 155 161 321 323 298 300 206 303 304 248 249 250 175 176 313
    246 320 169 167 168 179 163 103 153 135 170 171 164 159 227 305 256 279 237 238 172 173 154"""
_AARCH64 = """117 270 271 272 279 194 186 190 180 97 268 40 39 41 51 280 282 241 262 0 264 265 217 218 219 105 106 273 104 294
    142 224 225 60 89 116 58 92 161 162 170 171 112 266 238 239 235 237"""
# The same everywhere since Linux 5: io_uring_setup _enter _register, open_tree move_mount fsopen fsconfig fsmount fspick,
# pidfd_getfd process_madvise mount_setattr quotactl_fd memfd_secret.
_NEWER = "425 426 427 428 429 430 431 432 433 438 440 442 443 447"
_CLONE3 = 435

MACHINES = {
    "x86_64": Calls(audit=0xC000003E, clone=56, socket=41, denied=_X86_64),
    "aarch64": Calls(audit=0xC00000B7, clone=220, socket=198, denied=_AARCH64),
}


def program(machine: Optional[str] = None) -> bytes:
    """The filter for this machine, or the one named; raises KeyError for one that is not in MACHINES."""
    calls = MACHINES[machine or platform.machine()]
    steps = [(LOAD, 0, 0, ARCHITECTURE_AT), (EQUAL, 1, 0, calls.audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER_AT)]
    steps += [(AT_LEAST, 0, 1, X32_BIT), _fail(errno.EPERM)]
    for number in f"{calls.denied} {_NEWER}".split():
        steps += [(EQUAL, 0, 1, int(number)), _fail(errno.EPERM)]
    # The C library falls back to clone, whose flags can be looked at.
    steps += [(EQUAL, 0, 1, _CLONE3), _fail(errno.ENOSYS)]
    steps += _only_where(calls.clone, (ANY_BIT, 0, 1, CLONE_THREAD), errno.EAGAIN)
    steps += _only_where(calls.socket, (EQUAL, 0, 1, AF_UNIX), errno.EACCES)
    steps.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


_Step = tuple[int, int, int, int]


def _fail(error: int) -> _Step:
    return (RETURN, 0, 0, ERROR | error)


def _only_where(number: int, condition: _Step, error: int) -> list[_Step]:
    """A call that is allowed where its first argument meets the condition."""
    return [
        (EQUAL, 0, 4, number),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        condition,
        (RETURN, 0, 0, ALLOW),
        _fail(error),
    ]
