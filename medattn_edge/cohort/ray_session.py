"""A Ray of this program's own, on this host alone and gone with it; or a cluster that somebody gave the address of.

What Ray does by itself and is not wanted here: it listens on all interfaces, has a session folder that everybody may
write to, keeps a token in the home folder, gives its workers the priority 15, takes the GPU from workers that did not
ask for one, ends workers when memory runs short, packs up the working folder under `uv run`, and reports its use
(`ray start`; its `init` does not). Variables turn that off, which it reads when it is imported. And it prints the ends
of workers to stdout, which has our results.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import BackendError, HostError, MissingDependency, UsageError
from medattn_edge.host import system
from medattn_edge.process.held_folder import held_folder, remove_tree

_LOCALHOST: Final = "127.0.0.1"
_STORE_BYTES: Final = 128 * 2**20  # of objects in shared memory: cases and results are texts of a few kB
_PREFIX: Final = "medattn-edge-ray-"
_PLACE_BYTES: Final = 26  # of the folder for temporary files: a socket's path may have 107, of which Ray takes the rest
_ALWAYS: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
_OWN: Final = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no cluster: 127.0.0.1 instead of all interfaces, on Linux too
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
_ADDRESS: Final = re.compile(r"auto|(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):[0-9]{1,5}")


def check_address(address: str) -> None:
    """Raise UsageError for what is no address of a cluster."""
    if address and not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"the address {address!r} of a Ray",
            expected="HOST:PORT as `ray start --head` prints it, or auto for the one that this host is a node of",
            hint="run this on a node of the cluster, with --address auto",
        )


def check_installed() -> None:
    """Raise MissingDependency without Ray."""
    if find_spec("ray") is None:
        raise MissingDependency.of_extra("ray", "ray")


@contextmanager
def ray_session(address: str, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected until the block ends.

    Args:
        address: of a cluster, as `check_address` wants it; "" for a Ray of our own, which only this host can reach.
        cpus: how many workers' threads there are to be at a time.

    Raises:
        MissingDependency: without Ray.
        UsageError: this program uses Ray already, in another way.
        HostError: the folder for temporary files cannot be used, or there is no such cluster.
        BackendError: Ray does not start, the cluster is too small, or it has another version.
    """
    check_installed()
    known = "ray" in sys.modules
    os.environ.update(_ALWAYS)
    if not address:
        os.environ.update(_OWN)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it is kept in a file of the home folder
    ray: Any = import_module("ray")
    constants = import_module("ray._private.ray_constants")

    if ray.is_initialized() or (known and bool(address) != constants.ENABLE_RAY_CLUSTER):
        raise UsageError(
            "this program has begun to use Ray already, in another way",
            expected="a program in which only this has imported it",
            hint="a process of its own, as `medattn-edge infer` is, or engine='local'",
        )
    with ExitStack() as stack:
        options: dict[str, Any] = {"address": address}
        if not address:
            folder = stack.enter_context(_folder())
            options = {
                "address": "local",
                "num_cpus": cpus,
                "num_gpus": 0,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": str(folder / "r"),
                "_node_ip_address": _LOCALHOST,
            }
        stack.enter_context(_silent())
        stack.callback(ray.shutdown)
        with _own_handlers():
            _init(ray, address, options)
        if not address and (found := ray.util.get_node_ip_address()) != _LOCALHOST:
            raise BackendError(
                f"Ray {ray.__version__} listens on {found}",
                expected=f"{_LOCALHOST} alone, as no --address was given",
                hint="another version of Ray, or --engine local",
            )
        if address and (there := int(ray.cluster_resources().get("CPU", 0))) < cpus:
            raise UsageError(
                f"workers with {cpus} thread(s) in total, on a cluster with {there} CPU(s)",
                expected="a place for every worker",
                hint=f"--workers {max(1, there)} --threads 1, or more nodes",
            )
        yield ray


def _init(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Start or connect; every error of Ray as one of ours."""
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
    except ConnectionError as error:
        raise HostError(
            f"no Ray at {address}: {_first_line(error)}",
            expected="a cluster that this host is a node of",
            hint="ray start --address HOST:PORT on this host, then --address auto; or leave --address out",
        ) from error
    except Exception as error:  # it raises what it happens to meet
        place = f"connect to {address}" if address else "start on this host"
        hint = "the same Python and Ray as the cluster has" if address else "--engine local, which needs none"
        raise BackendError(f"Ray does not {place}: {_first_line(error)}", expected="a Ray", hint=hint) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep what this program does when it is asked to end; `ray.init` puts its own in that place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def is_ray_process(pid: int) -> bool:
    """Whether a process of this host is one that Ray has named: a worker, an actor or an agent."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what Ray says of its workers out of stdout; `log_to_driver` does not."""
    module: Any = import_module("ray._private.worker")
    before = module.print_to_stdstream
    module.print_to_stdstream = lambda data, ignore_prefix: None
    try:
        yield
    finally:
        module.print_to_stdstream = before


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for Ray's session that nobody else may enter; those of killed runs are removed first."""
    place = Path(tempfile.gettempdir())
    if len(os.fsencode(place)) > _PLACE_BYTES:
        raise _unusable(place, "its path is too long for the sockets of Ray")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(held_folder(_PREFIX, remove=_remove))
        except OSError as error:
            raise _unusable(place, str(error.strerror or error)) from error
        yield folder


def _remove(folder: Path) -> None:
    """End what is left of a session, and remove its folder: Ray's agents wait for minutes for what is gone already."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is gone, or somebody else's
            opened = (str(file.readlink()) for file in (process / "fd").iterdir())
            if is_ray_process(int(process.name)) and any(name.startswith(f"{folder}/") for name in opened):
                os.kill(int(process.name), system.SIGKILL)
    remove_tree(folder)


def _unusable(place: Path, why: str) -> HostError:
    return HostError(
        f"Ray's session has no place in {place}: {why}",
        expected="a folder with a short path that this user may write to",
        hint="TMPDIR=/tmp in front of the command",
    )
