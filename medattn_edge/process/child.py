"""A child process of this program, with a connection to it: how it is started, and how it ends with its parent."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from medattn_edge.errors import HostError

_STDERR = 2
_LOOK_MS = 1000
_ENDS_S = 1.0  # from the end of its connection to its own
_OOM_SCORE = "500"  # of -1000 to 1000; 0 is any other process


def spawn(module: str, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A child that runs `main(descriptor)` of a module, and our end of the connection to it.

    environment: variables beside this process's own. Raises HostError when no process can be started.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        # A fresh interpreter rather than a fork, which would copy the locks of threads that are not there; and rather
        # than multiprocessing's spawn, which runs the main script once more.
        start = f"import sys; sys.path[:] = {sys.path!r}; import {module} as worker; worker.main({theirs.fileno()})"
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
            )
        except OSError as error:
            ours.close()
            raise HostError(
                f"no process can be started: {error.strerror or error}",
                expected="room for one more process",
                hint="end other programs, or raise ulimit -u",
            ) from error
    return child, ours


def attach(descriptor: int) -> None:
    """Make this process the child of whoever holds the other end of a socket: it ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer, which then ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's scan
    with contextlib.suppress(OSError):  # if memory runs out, the child should end and not its parent
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_end_with_parent, args=(descriptor, os.getppid()), daemon=True).start()


def _end_with_parent(descriptor: int, parent: int) -> None:
    """Ends this process when the other end is closed, even while this one computes.

    A process forked by the parent may hold the other end open: then the parent's own end is noticed a second later.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP, which is always reported
    while not poll.poll(_LOOK_MS) and os.getppid() == parent:
        pass
    os._exit(0)


def ending(process: subprocess.Popen[bytes]) -> str:
    """How a child ended whose connection is gone; empty when it computes on, and nothing will come of it any more."""
    try:
        code = process.wait(_ENDS_S)
    except subprocess.TimeoutExpired:
        return ""
    if code >= 0:
        return f"ended its process with exit code {code}"
    return f"crashed: {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"


def end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """End a child and the connection to it, at once."""
    process.kill()
    process.wait()
    connection.close()
