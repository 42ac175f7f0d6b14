"""The system-call filter that bubblewrap loads, built with libseccomp (the package ``pyseccomp``).

The denied calls are not needed to run programs, and were used to escape containers or reach what no namespace
separates: keyrings, sockets other than the internet's, io_uring, tracing, loading code into the kernel.
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
"""Refused with EPERM, as for missing privileges."""
ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "memfd_secret")
"""Refused with ENOSYS, as by an older kernel, so that programs fall back to older calls."""
UNCOUNTED = ("memfd_create", "shmget")
"""Memory that no process limit counts; absent unless a control group counts it."""
FAMILIES = (*range(3, 10), *range(11, 16))
"""Address families below 17 other than UNIX, the internet's and netlink's; all families above are refused."""
NETLINK = 16
CLONE_NEWUSER = 0x10000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C


@cache
def filter_program(*, memory_is_counted: bool) -> bytes:
    """The filter program for the kernel. Raises :class:`ModuleNotFoundError`, or OSError without libseccomp."""
    with packages_of("sandbox"):
        try:
            import pyseccomp
        except RuntimeError as error:  # how pyseccomp reports it
            raise OSError(f"pyseccomp finds no libseccomp: {error}") from None
    seccomp: Any = pyseccomp
    program = seccomp.SyscallFilter(seccomp.ALLOW)

    def refuse(code: int, name: str, *conditions: Any) -> None:
        try:
            program.add_rule(seccomp.ERRNO(code), name, *conditions)
        except (ValueError, OSError):  # unknown to this libseccomp or processor
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
