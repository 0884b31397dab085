"""The loop of a thread that sends what is due, shared by deliveries and by answers to storage commitment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from medattn_edge.errors import OutputError
from medattn_edge.scanner.observe.log import Log

_LOOK_S: Final = 1.0  # between looks for what is due, when nobody wakes the thread
_LONGEST_PAUSE_S: Final = 60.0  # while our own disk takes nothing


def send_when_due(
    send_due: Callable[[threading.Event], int],
    log: Log,
    waits_event: str,
    *,
    stopping: threading.Event,
    wake: threading.Event,
) -> None:
    """Send what is due, again and again, until told to stop; what is under way is finished.

    Args:
        send_due: tries what may be tried now, and says how many that were. It raises OutputError when what was sent, or
            will be, cannot be put on record: it is not tried again every second then.
        log: of the node.
        waits_event: what the log is told of such an error.
        stopping: set to end the loop.
        wake: set when there is more to send.
    """
    pause = _LOOK_S
    while not stopping.is_set():
        wake.clear()  # before the look: what comes during it wakes us again
        try:
            tried = send_due(stopping)
        except OutputError as error:
            log.failure(waits_event, error)
            stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            continue
        pause = _LOOK_S
        if not tried:
            wake.wait(_LOOK_S)
