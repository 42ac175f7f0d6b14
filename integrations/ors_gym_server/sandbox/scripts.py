"""The shell scripts and paths that the local sandbox is made of."""

from __future__ import annotations

__all__ = [
    "CARRY",
    "FIRST",
    "JAIL",
    "JOIN",
    "KEEP",
    "NETWORK_SETTINGS",
    "SETTINGS",
    "STORE",
    "SYSTEM",
    "SYSTEM_PATH",
    "VIEW",
    "WAIT",
    "WORK",
]

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the confining programs find each other."""
WORK = "/work"
"""The working directory of a sandbox with namespaces."""
STORE = "/dev/shm"
"""Where the keeper, in its own mount namespace, mounts the sandbox's files: a directory that every Linux has."""
SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
"""What programs need of the host's root directory; seen read-only."""
SETTINGS = ("alternatives", "ld.so.cache", "localtime", "ssl")
NETWORK_SETTINGS = ("hosts", "nsswitch.conf", "resolv.conf")
"""What programs need of ``/etc``, and what they need besides where there is a network."""

KEEP = f"""
set -eu
size=$1 inodes=$2 owner=$3 settings=$4; shift 4
mkdir -p {STORE}
mount -t tmpfs -o "size=$size,nr_inodes=$inodes,mode=755,nosuid,nodev" tmpfs {STORE}
cd {STORE}
mkdir work tmp shm mounts root
chmod 1777 tmp shm
[ -z "$owner" ] || chown "$owner:$owner" work
echo 'sandbox:x:1000:1000::{WORK}:/bin/sh' > passwd
echo 'sandbox:x:1000:' > group
number=0
for source do
    if [ -d "$source" ]; then mkdir "mounts/$number"; else : > "mounts/$number"; fi
    mount --rbind -- "$source" "mounts/$number"
    number=$((number + 1))
done
"""
"""The keeper's script; its arguments from the fifth are what to mount."""
WAIT = """
echo ready
read -r _ || :
"""

VIEW = f"""
show() {{  # what lies at $1 is seen, read-only, at $2
    if [ -d "$1" ]; then mkdir -p "root$2"
    elif [ -e "$1" ]; then mkdir -p "root${{2%/*}}"; : > "root$2"
    else return 0; fi
    mount --rbind -o ro,nosuid,nodev -- "$1" "root$2"
}}
mount -t tmpfs -o mode=755,size=1m tmpfs root
mkdir -p root/.old root/proc root/dev/shm root/etc root/tmp root{WORK}
for name in {" ".join(SYSTEM)}; do
    if [ -L "/$name" ]; then cp -P "/$name" root/; else show "/$name" "/$name"; fi
done
for name in null zero full random urandom; do
    : > "root/dev/$name"
    mount --bind "/dev/$name" "root/dev/$name"
done
ln -s /proc/self/fd root/dev/fd
ln -s /proc/self/fd/0 root/dev/stdin
ln -s /proc/self/fd/1 root/dev/stdout
ln -s /proc/self/fd/2 root/dev/stderr
mount --bind shm root/dev/shm
mount --bind work root{WORK}
mount --bind tmp root/tmp
cp passwd group root/etc/
for name in $settings; do show "/etc/$name" "/etc/$name"; done
"""
"""Builds, once for all runs, what ``bwrap`` builds for each: the root directory that programs see."""

JAIL = f"""
set -eu
cd {STORE}
mount --rbind root root
mount -t proc -o nosuid,nodev,noexec proc root/proc
echo 1 > /proc/sys/user/max_user_namespaces
cd root
PATH=$PATH:/usr/sbin:/sbin pivot_root . .old
umount -l /.old
cd {WORK}
unset OLDPWD
set +e
unshare --user --map-user=1000 --map-group=1000 --keep-caps -- \
    setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all -- "$@"
exit $?
"""
"""Goes into that root directory, in new namespaces, and leaves root's place in the outer user namespace for one where
we are nobody in particular. The shell stays: it is the first process of the PID namespace."""

CARRY = """
ORS_SANDBOX=0
while [ "$ORS_SANDBOX" -lt "$1" ]; do
    eval "export \\"\\$ORS_SANDBOX_$ORS_SANDBOX\\"; unset ORS_SANDBOX_$ORS_SANDBOX"
    ORS_SANDBOX=$((ORS_SANDBOX + 1))
done
unset ORS_SANDBOX
[ -z "$2" ] || cd -- "$2" || exit 125
shift 2
exec "$@"
"""
"""Set the variables that were carried here under other names, and go to the directory: the last step of all, so that
no variable (``LD_PRELOAD``, ``PATH``) means anything to the programs that confine."""

FIRST = '"$@"; exit $?'
"""The first process of a PID namespace, which ends with its command. (``bwrap`` has one of its own, but returns before
that has ended; and it may leave its zombie to us, which in a container nobody may wait for.)"""

JOIN = 'until [ "$1" = -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@"'
"""Join control groups before anything else."""
