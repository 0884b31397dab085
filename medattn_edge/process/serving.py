"""The inside of a Child: it answers the requests of the process that started it, until that is gone."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

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
    _end_with_parent(descriptor)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError):
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


def _end_with_parent(descriptor: int) -> None:
    """Make this process the child of whoever holds the other end of a socket: it ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer, which then ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's scan
    with contextlib.suppress(OSError):  # if memory runs out, the child should end and not its parent
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_wait_for_the_end, args=(descriptor, os.getppid()), daemon=True).start()


def _wait_for_the_end(descriptor: int, parent: int) -> None:
    """Ends this process when the other end is closed, even while this one computes.

    A process forked by the parent may hold the other end open: then the parent's own end is noticed a second later.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP, which is always reported
    while not poll.poll(_LOOK_MS) and os.getppid() == parent:
        pass
    os._exit(0)
