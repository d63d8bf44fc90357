"""A process on another machine, as far as an archive can tell: another host name and boot, and locks that none sees.

    python hosts.py HOST STOP cli ARGUMENT...       a command of ctxdeploy; its exit code
    python hosts.py HOST STOP write ARCHIVE NAME    adds a photo; prints ready, waits for a line, commits; prints done
    python hosts.py HOST STOP read ARCHIVE          opens; prints ready; on each line prints what it finds

Signs of life come ten times a second, whatever CTXDEPLOY_LEASE_SECONDS says. STOP: ``-``, or a file name: the process
stops itself (SIGSTOP) when it is about to rename something to that name.
"""

import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core import heartbeat
from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.host import Host
from ctxdeploy.index import Index
from ctxdeploy.index.storage import holder, lease, sharing


def move_to(name: str) -> None:
    """Be on another machine, whose locks nobody else sees, as on NFS that was mounted with ``nolock``."""
    host = Host(name=name, boot=f"boot of {name}", machine=f"machine {name}")
    for module in (holder, lease, sharing):
        module.this_host = lambda: host
    fcntl.flock = lambda *arguments: None  # type: ignore[assignment]
    heartbeat.beat_interval = lambda: 0.1


def stop_before(name: str) -> None:
    """Stop this process once, when it is about to rename a file to a name."""
    real = os.replace

    def stopping(source: Any, target: Any) -> None:
        if Path(target).name == name:
            os.replace = real
            print("stopped", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        real(source, target)

    os.replace = stopping  # type: ignore[assignment]


def write(archive: str, name: str) -> None:
    """Add a photo, and commit when told to."""
    with Index.open(archive, writable=True) as index:
        index.add(name, np.eye(3, index.codebook.dim))
        print("ready", flush=True)
        sys.stdin.readline()
        index.commit()
    print("done", flush=True)


def read(archive: str) -> None:
    """Find photos again and again in the state that was opened."""
    with Index.open(archive) as index:
        print("ready", flush=True)
        while sys.stdin.readline():
            found = index.search(np.eye(3, index.codebook.dim), 3)
            print(len(found), index.verify(), flush=True)


def main(name: str, stop: str, act: str, arguments: list[str]) -> None:
    """Do what the command line says."""
    move_to(name)
    if stop != "-":
        stop_before(stop)
    if act == "cli":
        from ctxdeploy.cli.main import main as ctxdeploy

        ctxdeploy(arguments)
    try:
        {"write": write, "read": read}[act](*arguments)
    except CtxdeployError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])
