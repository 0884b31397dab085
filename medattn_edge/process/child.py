"""Child: a process of this program for what may crash, hang or leak: how it is started, asked, and lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medattn_edge.process.channel import Channel, Message
from medattn_edge.process.failures import raise_failure
from medattn_edge.process.memory import resident_mb
from medattn_edge.process.starting import start
from medattn_edge.volume import Array

_EXIT_S = 1.0  # from the end of its connection to its own


class ChildLost(Exception):
    """A child that cannot be asked any more.

    Attributes:
        how: what it did, to stand behind its name: "crashed: SIGSEGV", "gave no answer within 2 s".
        returncode: the exit code of its process, minus the number of a signal; None when it was ended from here.
        timed_out: whether it was ended because its time was up.
    """

    def __init__(self, how: str, returncode: int | None = None, timed_out: bool = False) -> None:
        super().__init__(how, returncode, timed_out)
        self.how, self.returncode, self.timed_out = how, returncode, timed_out

    def __str__(self) -> str:
        return f"the child {self.how}"


class Child:
    """A process that runs `main(descriptor)` of a module, which calls `serve`, and ends with this one.

    Several threads may ask: one request is done after the other. It belongs to the process that started it: in a
    process that was forked from that one it is not alive.

    Attributes:
        pid: of the process, also when that is gone.
        peak_rss_mb: the most memory that the child had held at its last reply, in 1e6 bytes; 0 before the first.
        lost: why it cannot be asked any more; None while it can.
    """

    def __init__(
        self,
        module: str,
        *,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
        poll_s: float = 1.0,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the process; it imports the module while this returns.

        Args:
            module: the name of the module, importable here.
            environment: variables to set for the child beside this process's own.
            quiet: whether what the child writes to stdout and stderr is dropped; else both go to stderr here.
            poll_s: how often the child is looked at while it is waited for, in s.
            watch: called as often; what it raises ends the child, and is raised by `ask`.

        Raises:
            HostError: when no process can be started.
        """
        self._process, connection = start(module, environment or {}, quiet)
        connection.settimeout(poll_s)
        self._connection, self._channel, self._watch = connection, Channel(connection, self._look), watch
        self._owner, self._deadline, self._lock = os.getpid(), 0.0, threading.RLock()
        self.pid, self.peak_rss_mb = self._process.pid, 0.0
        self.lost: ChildLost | None = None
        self._release = weakref.finalize(self, _release, self._process, connection)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return os.getpid() == self._owner and self.lost is None and self._process.poll() is None

    @property
    def rss_mb(self) -> float:
        """Its resident memory in 1e6 bytes; 0 when it is gone, or where there is no /proc."""
        return resident_mb(self.pid) if self.alive else 0.0

    def ask(
        self, request: Message, arrays: Sequence[Array] = (), *, timeout_s: float
    ) -> tuple[dict[str, Any], list[Array]]:
        """The reply of the child's handler, and its arrays.

        Args:
            request: JSON values; `do` names the handler.
            arrays: C-contiguous arrays.
            timeout_s: the limit, in s, after which the child is ended.

        Raises:
            ChildLost: when the child is, or was, lost; whoever wants another starts one.
            MedattnError: that the handler raised, of its own type, or of the nearest one known here. When it was one
                that ends the child, `lost` is set.
            RuntimeError: for any other exception of the handler, with its traceback.
        """
        if os.getpid() != self._owner:
            raise ChildLost("belongs to the process that this one was forked from")
        with self._lock:
            if self.lost is not None:
                raise ChildLost(*self.lost.args)
            self._deadline = time.monotonic() + timeout_s
            try:
                self._channel.send(request, arrays)
                envelope, received = self._channel.receive()
            except EOFError:
                self.lost = self.lost or self._ending()
            except TimeoutError:
                self.lost = ChildLost(f"gave no answer within {timeout_s:g} s", timed_out=True)
            except BaseException:  # an interrupted request: its reply must not be taken for the next one's
                self.close()
                raise
            if self.lost is not None:
                self._release()
                raise ChildLost(*self.lost.args)
            self.peak_rss_mb = envelope["peak_rss_mb"]
            if envelope["ends"]:
                self.lost = ChildLost(f"ended itself: {envelope['failure']['found']}")
                self._release()
        if "failure" in envelope:
            raise_failure(envelope["failure"])
        return envelope["reply"], received

    def kill(self) -> None:
        """End the process without waiting for anything; whoever waits for a reply gets ChildLost."""
        if os.getpid() == self._owner:
            self._process.kill()

    def close(self) -> None:
        """End the child at once, also while another thread waits for its reply."""
        if os.getpid() != self._owner:
            return
        self.lost = self.lost or ChildLost("was ended")
        self._process.kill()
        with self._lock:
            self._release()

    def stop(self, within_s: float) -> None:
        """End the child: an idle one may end by itself for so many seconds, one that works is ended at once."""
        if os.getpid() != self._owner:  # the connection is shared with the process that it belongs to
            return
        self.lost = self.lost or ChildLost("was ended")
        if self._lock.acquire(blocking=False):
            try:
                if self._release.alive:
                    self._connection.shutdown(socket.SHUT_RDWR)
                    self._process.wait(within_s)
            except (OSError, subprocess.TimeoutExpired):
                pass
            finally:
                self._lock.release()
        self.close()

    def _look(self) -> None:
        """Called every `poll_s` of waiting."""
        if self._process.poll() is not None:
            raise EOFError
        if time.monotonic() > self._deadline:
            raise TimeoutError
        self._watch()

    def _ending(self) -> ChildLost:
        """How the process ended whose connection is gone."""
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:  # it computes on, and nothing will come of it any more
            return ChildLost("closed its connection")
        if code >= 0:
            return ChildLost(f"ended its process with exit code {code}", code)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return ChildLost(f"crashed: {name}", code)


def _release(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    process.kill()
    process.wait()
    connection.close()
