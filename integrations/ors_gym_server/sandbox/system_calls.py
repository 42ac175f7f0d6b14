"""The filter of system calls that bubblewrap loads, written by libseccomp (the package ``pyseccomp``).

What it closes is not needed to run programs, and was a way out of containers before or reaches what no namespace
separates: keyrings, sockets of families other than the internet's, io_uring, tracing, loading code into the kernel.
"""

from __future__ import annotations

import errno
import tempfile
from functools import cache
from typing import Any

from ors_gym.extras import packages_of

__all__ = ["filter_program"]

DENIED = (
    *("add_key", "keyctl", "request_key"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "perf_event_open"),
    *("bpf", "userfaultfd", "fanotify_init", "lookup_dcookie", "syslog", "acct", "quotactl", "vhangup"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
    *("mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "setns", "unshare", "chroot", "open_by_handle_at", "name_to_handle_at", "iopl", "ioperm"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "nfsservctl"),
    *("personality", "uselib", "ustat", "sysfs", "_sysctl", "mbind", "migrate_pages", "move_pages", "set_mempolicy"),
)
"""Refused as a system refuses what takes rights: EPERM."""
ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "memfd_secret")
"""Refused as by a kernel that does not know them: programs then take the older way."""
UNCOUNTED = ("memfd_create", "shmget")
"""Memory that no limit of a process counts; absent unless a control group counts it."""
FAMILIES = (*range(3, 10), *range(11, 16))
"""Address families below 17 other than UNIX, the internet's and netlink's, which all sockets above are refused with."""
NETLINK = 16
CLONE_NEWUSER = 0x10000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C


@cache
def filter_program(*, memory_is_counted: bool) -> bytes:
    """The program, as the kernel takes it. Raises :class:`ModuleNotFoundError`, and OSError without libseccomp."""
    with packages_of("sandbox"):
        try:
            import pyseccomp
        except RuntimeError as error:  # pyseccomp's word for it
            raise OSError(f"pyseccomp finds no libseccomp: {error}") from None
    seccomp: Any = pyseccomp
    program = seccomp.SyscallFilter(seccomp.ALLOW)

    def refuse(code: int, name: str, *conditions: Any) -> None:
        try:
            program.add_rule(seccomp.ERRNO(code), name, *conditions)
        except (ValueError, OSError):  # a call that this libseccomp or this processor does not have
            if name in ("socket", "clone", "ptrace", "keyctl"):
                raise

    for name in DENIED:
        refuse(errno.EPERM, name)
    for name in ABSENT if memory_is_counted else ABSENT + UNCOUNTED:
        refuse(errno.ENOSYS, name)
    # The kernel reads 32 bits of these arguments, a filter compares 64: every larger value is refused as well.
    for family in FAMILIES:
        refuse(errno.EAFNOSUPPORT, "socket", seccomp.Arg(0, seccomp.EQ, family))
    refuse(errno.EAFNOSUPPORT, "socket", seccomp.Arg(0, seccomp.GT, NETLINK))
    refuse(errno.EPERM, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER))
    for request in (TIOCSTI, TIOCLINUX):
        refuse(errno.EPERM, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
