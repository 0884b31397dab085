"""The inside of a Child: it answers the requests of the process that started it, until that is gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from medattn_edge.host.system import without_core_files
from medattn_edge.process.channel import Channel, Message
from medattn_edge.process.failures import failure_to_json
from medattn_edge.process.memory import peak_rss_mb
from medattn_edge.volume import Array

Reply = tuple[Message, Sequence[Array]]
Handler = Callable[[dict[str, Any], list[Array]], Reply]

_LOOK_MS = 1000
_OOM_SCORE = "500"  # of -1000 to 1000; 0 is any other process


def serve(descriptor: int, handlers: Mapping[str, Handler], *, fatal: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Answer requests until the other end of a socket is gone; this process ends then, without any clean-up.

    Args:
        descriptor: of the socket, as `main` of the child's module got it.
        handlers: name -> what is called with a request whose `do` names it, and with its arrays, to make the reply and
            its arrays. What it raises is raised by `Child.ask`.
        fatal: errors after which nothing in this process can work: it tells the error, and ends.
    """
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError):
        _end_with_parent(connection)
        channel = Channel(connection)
        while _answer(channel, handlers, fatal):
            pass
    os._exit(0)  # a library that crashes while it is taken down has nothing left to say


def _answer(channel: Channel, handlers: Mapping[str, Handler], fatal: tuple[type[Exception], ...]) -> bool:
    """Answer one request. Whether there can be another."""
    request, arrays = channel.receive()
    ends, envelope, results = False, dict[str, Any](), list[Array]()
    try:
        envelope["reply"], answers = handlers[request["do"]](request, arrays)
        results = [np.ascontiguousarray(array) for array in answers]  # it is sent as it lies in memory
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        ends = isinstance(error, fatal)
        envelope = {"failure": failure_to_json(error)}
    channel.send({**envelope, "ends": ends, "peak_rss_mb": peak_rss_mb()}, results)
    return not ends


def leave_the_end_to_the_parent() -> None:
    """Ignore what a terminal or a service manager sends to parent and child: the parent decides when this one ends."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end_with_parent(connection: socket.socket) -> None:
    """Make this process the child of whoever holds the other end of a socket: it ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer, which then ends this process
    without_core_files()
    with contextlib.suppress(OSError):  # if memory runs out, the child should end and not its parent
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    connection.set_inheritable(False)
    threading.Thread(target=_wait_for_the_end, args=(connection, os.getppid()), daemon=True).start()


def _wait_for_the_end(connection: socket.socket, parent: int) -> None:
    """Ends this process when the other end is closed, even while this one computes.

    A process forked by the parent may hold the other end open: then the parent's own end is noticed a second later.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(connection, 0)  # POLLHUP, which is always reported
        while not poll.poll(_LOOK_MS) and os.getppid() == parent:
            pass
    else:  # Windows tells it only to whoever reads; what is not read yet is a request, and looked at again
        with contextlib.suppress(ConnectionError):
            while connection.recv(1, socket.MSG_PEEK) and os.getppid() == parent:
                time.sleep(_LOOK_MS / 1000)
    os._exit(0)
