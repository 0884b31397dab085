"""Starting the process of a Child, with a socket between it and this one.

Where the system hands open files down by their numbers, the child gets one end of a pair of sockets. Windows does not:
there the child connects to a port of this machine that is open for it alone, and shows a secret that it got by stdin.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from medattn_edge.errors import HostError
from medattn_edge.host.system import HANDS_DOWN

_STDERR = 2
_SECRET_BYTES = 32
_CONNECT_S = 60.0  # from the start of an interpreter to its connection
_LOOK_S = 0.2

Started = tuple[subprocess.Popen[bytes], socket.socket]


def start(module: str, environment: Mapping[str, str], quiet: bool) -> Started:
    """A process that runs `main(descriptor)` of a module, and our end of the connection to it.

    Args:
        module: the name of the module, importable here.
        environment: variables to set for the child beside this process's own.
        quiet: whether what the child writes to stdout and stderr is dropped; else both go to stderr here.

    Raises:
        HostError: when no process can be started, or it does not connect.
    """
    return _with_a_pair(module, environment, quiet) if HANDS_DOWN else _by_a_port(module, environment, quiet)


def connect(port: int) -> int:
    """In the child: the descriptor of a connection to the parent, which knows us by the secret in stdin."""
    secret = sys.stdin.buffer.read(_SECRET_BYTES)
    connection = socket.create_connection(("127.0.0.1", port), _CONNECT_S)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(secret)
    return connection.detach()


def _with_a_pair(module: str, environment: Mapping[str, str], quiet: bool) -> Started:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = _process(module, str(theirs.fileno()), environment, quiet, pass_fds=[theirs.fileno()])
        except BaseException:
            ours.close()
            raise
    return process, ours


def _by_a_port(module: str, environment: Mapping[str, str], quiet: bool) -> Started:
    secret = secrets.token_bytes(_SECRET_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        from_port = f"starting.connect({server.getsockname()[1]})"
        process = _process(module, from_port, environment, quiet, stdin=subprocess.PIPE)
        try:
            assert process.stdin is not None, "it was asked for"
            with contextlib.suppress(OSError), process.stdin as stdin:  # a child that is gone is told below
                stdin.write(secret)
            return process, _accepted(server, process, secret)
        except BaseException:
            process.kill()
            process.wait()
            raise


def _accepted(server: socket.socket, process: subprocess.Popen[bytes], secret: bytes) -> socket.socket:
    """The connection of whoever shows the secret; others are turned away."""
    server.settimeout(_LOOK_S)
    end = time.monotonic() + _CONNECT_S
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):  # nobody came yet; or somebody who said nothing
            connection, _ = server.accept()
            connection.settimeout(_CONNECT_S)
            shown = b""
            while len(shown) < _SECRET_BYTES and (more := connection.recv(_SECRET_BYTES - len(shown))):
                shown += more
            if hmac.compare_digest(shown, secret):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            connection.close()
    raise HostError(
        "a process was started and does not connect to this one over 127.0.0.1",
        expected="connections within this machine",
        hint="let this Python through the firewall, for 127.0.0.1",
    )


def _process(
    module: str,
    descriptor: str,
    environment: Mapping[str, str],
    quiet: bool,
    pass_fds: tuple[int, ...] | list[int] = (),
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """descriptor: an expression."""
    # A fresh interpreter rather than a fork, which would copy the locks of threads that are not there; and rather than
    # multiprocessing's spawn, which runs the main script once more. Nothing is imported from the folder that it is
    # started in, since `sys` is built in.
    run = (
        f"import sys; sys.path[:] = {sys.path!r}; from medattn_edge.process import starting; "
        f"import {module} as served; served.main({descriptor})"
    )
    try:
        return subprocess.Popen(
            [sys.executable, "-c", run],
            stdin=stdin,
            stdout=subprocess.DEVNULL if quiet else _STDERR,
            stderr=subprocess.DEVNULL if quiet else None,
            pass_fds=pass_fds,
            env={**os.environ, **environment},
        )
    except OSError as error:
        raise HostError(
            f"no process can be started: {error.strerror or error}",
            expected="room for one more process",
            hint="end other programs, or raise ulimit -u",
        ) from error
