"""Runs a command under the system call filter of a unit, by the library that systemd itself uses for it.

`python sandbox.py 'SystemCallFilter value' ... -- COMMAND`: the values in their order (systemd.exec(5)). With it goes
MemoryDenyWriteExecute=: no memory that is written to and executed.
"""

import ctypes
import os
import subprocess
import sys

_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | 1  # EPERM
_MASKED_EQUAL = 7
_WRITE, _EXECUTE = 2, 4
_SECCOMP = ctypes.CDLL("libseccomp.so.2")
_SECCOMP.seccomp_init.restype = ctypes.c_void_p


class _Argument(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def calls(name: str) -> set[str]:
    """Return the system calls of a set, or the one of that name."""
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
    )
    entries = [line.strip() for line in listed.stdout.splitlines()[1:]]
    return set().union(*(calls(entry) for entry in entries if entry and not entry.startswith("#")))


def allowed(values: list[str]) -> set[str]:
    """Return the system calls that the values leave."""
    left = calls("@default")
    for value in values:
        named = set().union(*map(calls, value.removeprefix("~").split()))
        left = left - named if value.startswith("~") else left | named
    return left


def restrict(names: set[str]) -> None:
    """Refuse this process and what it becomes all other system calls, and memory that is written and executed."""
    only = ctypes.c_void_p(_SECCOMP.seccomp_init(_REFUSE))
    for name in names:
        number = _SECCOMP.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # others are not of this machine
            assert _SECCOMP.seccomp_rule_add(only, _ALLOW, number, 0) == 0, name
    memory = ctypes.c_void_p(_SECCOMP.seccomp_init(_ALLOW))
    both = _WRITE | _EXECUTE
    for name, mask in (("mmap", both), ("mprotect", _EXECUTE), ("pkey_mprotect", _EXECUTE)):
        protection = _Argument(2, _MASKED_EQUAL, mask, mask)
        number = _SECCOMP.seccomp_syscall_resolve_name(name.encode())
        assert _SECCOMP.seccomp_rule_add_array(memory, _REFUSE, number, 1, ctypes.byref(protection)) == 0
    for context in (memory, only):
        assert _SECCOMP.seccomp_load(context) == 0


if __name__ == "__main__":
    separator = sys.argv.index("--")
    restrict(allowed(sys.argv[1:separator]))
    os.execv(sys.argv[separator + 1], sys.argv[separator + 1 :])
