"""Shell scripts and paths of the local sandbox."""

from __future__ import annotations

__all__ = [
    "BEGUN",
    "CARRY",
    "DISCARD",
    "FILTERED",
    "FIRST",
    "JOIN",
    "KEEP",
    "NETWORK_SETTINGS",
    "SETTINGS",
    "STORE",
    "SYSTEM",
    "SYSTEM_PATH",
    "WORK",
]

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path of the confining programs."""
WORK = "/work"
"""The working directory of a sandbox with namespaces."""
STORE = "/dev/shm"
"""Where the keeper mounts the sandbox's files in its own mount namespace: a directory of every Linux."""
SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
"""The parts of the host's root directory that programs need; read-only."""
SETTINGS = ("alternatives", "ld.so.cache", "localtime", "ssl")
NETWORK_SETTINGS = ("hosts", "nsswitch.conf", "resolv.conf")
"""The parts of ``/etc`` that programs need, and those that they need for a network."""

KEEP = f"""
set -eu
size=$1 inodes=$2 owner=$3 filter=$4; shift 4
mkdir -p {STORE}
mount -t tmpfs -o "size=$size,nr_inodes=$inodes,mode=755,nosuid,nodev" tmpfs {STORE}
cd {STORE}
mkdir work tmp shm mounts
chmod 1777 tmp shm
[ -z "$owner" ] || chown "$owner:$owner" work
echo 'sandbox:x:1000:1000::{WORK}:/bin/sh' > passwd
echo 'sandbox:x:1000:' > group
printf '127.0.0.1 localhost sandbox\\n::1 localhost sandbox\\n' > hosts
printf %b "$filter" > filter
number=0
for source do
    if [ -d "$source" ]; then mkdir "mounts/$number"; else : > "mounts/$number"; fi
    mount --rbind -- "$source" "mounts/$number"
    number=$((number + 1))
done
echo ready
read -r _ || :
"""
"""The keeper's script; its arguments from the fifth on are the mounts."""

FILTERED = f'exec 9<{STORE}/filter; exec "$@"'
"""Open the filter of system calls for ``bwrap``."""

FIRST = 'exec 9<&-; "$@"; exit $?'
"""The first process of a PID namespace, which ends with its command. (The one of ``bwrap`` returns before that has
ended, and may leave its zombie, which is never reaped in a container.)"""

DISCARD = """
trap '' TERM INT HUP
echo ready
read -r _ || :
home=$1; shift
[ $# = 0 ] || "$@"
exec rm -rf -- "$home"
"""
"""Waits for the server's end, kills remaining processes with the given command, if any, and removes the directory."""

BEGUN = b"\x01begun\x01\n"
"""Marker on standard error when the confinement is complete, before the command runs."""

CARRY = r"""
printf '\001begun\001\n' >&2
ORS_SANDBOX=0
while [ "$ORS_SANDBOX" -lt "$1" ]; do
    eval "export \"\$ORS_SANDBOX_$ORS_SANDBOX\"; unset ORS_SANDBOX_$ORS_SANDBOX"
    ORS_SANDBOX=$((ORS_SANDBOX + 1))
done
unset ORS_SANDBOX
[ -z "$2" ] || cd -- "$2" || exit 125
shift 2
exec "$@"
"""
"""Sets the variables that were passed under other names, and changes to the directory. This comes last, so that no
variable (``LD_PRELOAD``, ``PATH``) affects the confining programs."""

JOIN = 'echo $$ > "$1" || exit 125; shift; exec "$@"'
"""Join a control group before anything else."""
