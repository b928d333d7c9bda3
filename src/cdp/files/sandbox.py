"""Takes the rights of this process away: what it does from then on is compute, and read and write open descriptors.

Always: limits of memory, processor time, files and processes; no new privileges; as root, the user nobody. Where the
kernel filters system calls, on x86-64 and AArch64, everything but the few below fails with EPERM: no file, socket,
process or other's memory can be reached.
"""
from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys

NOBODY = 65534
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER_MODE = 22, 38, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1     # EPERM
# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn madvise mremap futex
# exit exit_group clock_gettime getrandom sigaltstack gettid getpid
_CALLS = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 28, 25, 202, 60, 231, 228, 318, 131, 186, 39)),
    "aarch64": (0xC00000B7, (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 233, 216, 98, 93, 94, 113, 278,
                             132, 178, 172)),
}


def lock_down(memory_bytes: int, cpu_seconds: int) -> bool:
    """Cannot be taken back. Everything that is needed must be imported before. Returns whether system calls are
    filtered."""
    for limit, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, cpu_seconds),
                         (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 16)):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return sys.platform == "linux" and _filter_calls()


def _filter_calls() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if platform.machine() not in _CALLS or struct.calcsize("P") != 8:
        return False
    architecture, calls = _CALLS[platform.machine()]
    # (code, jump where true, jump where false, value): struct seccomp_data has the number first, then the architecture.
    steps = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for i, call in enumerate(calls):
        steps.append((_JUMP_EQUAL, len(calls) - i, 0, call))
    steps += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, header, 0, 0) == 0)
