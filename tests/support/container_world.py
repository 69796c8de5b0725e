"""Become a process as in the image, without Docker: with the file system, user and network of `docker run`.

Run it as root with `unshare --mount --net --propagation private python container_world.py WORLD.json`; at the end it
runs the command in the file. WORLD.json: `root` (an empty folder), `read_only` ({inside: outside}, files or folders),
`environment`, `uid`, `command`.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

SIOCSIFFLAGS = 0x8914
IFF_UP_AND_RUNNING = 0x41


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def read_only_bind(outside: Path, inside: Path) -> None:
    if outside.is_dir():
        inside.mkdir(parents=True, exist_ok=True)
    elif not inside.exists():
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.touch()
    mount("--bind", outside, inside)
    mount("-o", "remount,bind,ro", inside)


def main() -> None:
    world = json.loads(Path(sys.argv[1]).read_text())
    root = Path(world["root"])
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for name in ("usr", "bin", "sbin", "lib", "lib64", "etc"):
        system = Path("/", name)
        if system.is_symlink():
            (root / name).symlink_to(system.readlink())
        elif system.is_dir():
            read_only_bind(system, root / name)
    for name in ("dev", "proc", "sys"):
        (root / name).mkdir()
        mount("--rbind", f"/{name}", root / name)
    (root / "tmp").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,size=256m", "tmpfs", root / "tmp")
    for inside, outside in world["read_only"].items():
        read_only_bind(Path(outside), root / inside.lstrip("/"))
    mount("-o", "remount,ro", root)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
        fcntl.ioctl(loopback, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP_AND_RUNNING))
    os.chroot(root)
    os.chdir("/")
    drop_root = ["setpriv", f"--reuid={world['uid']}", f"--regid={world['uid']}", "--clear-groups"]
    drop_root += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    os.execvpe("setpriv", [*drop_root, *world["command"]], world["environment"])


if __name__ == "__main__":
    main()
