"""Triton itself, with ports of its own, on this host alone: from `make .venv-triton/.made`."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT
from tests.support.dicom_peers import free_port

if TYPE_CHECKING:
    from typing_extensions import Self

VENV = ROOT / ".venv-triton"
needs_triton = pytest.mark.skipif(
    not (VENV / ".made").is_file() and os.environ.get("CI") != "true", reason="make .venv-triton/.made"
)


class RealTriton:
    """One server of one repository.

    Attributes:
        port: of its gRPC; the same after it was started again.
        log: what it printed, over all its starts.
    """

    def __init__(self, repository: Path, folder: Path, port: int = 0) -> None:
        self.repository, self.port, self.log = repository, port or free_port(), folder / "triton.log"
        self._http = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.kill()

    def start(self, *, ready: bool = True) -> None:
        """Start it; it serves when this returns, or has said why it does not when `ready` is False."""
        [packages] = VENV.glob("lib/python3.*/site-packages")
        server = packages / "pytriton" / "tritonserver"
        ports = {"grpc": self.port, "http": self._http, "metrics": free_port()}
        words = [str(server / "bin" / "tritonserver"), f"--model-repository={self.repository}"]
        words += [f"--backend-directory={server / 'backends'}", "--disable-auto-complete-config"]
        words += [f"--{name}-address=127.0.0.1" for name in ports] + [f"--{name}-port={n}" for name, n in ports.items()]
        words += ["--allow-gpu-metrics=false", "--exit-on-error=false"]
        libraries = [str(packages / "nvidia_pytriton.libs"), _python_library()]
        environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
        environment["PATH"] = f"{VENV / 'bin'}:{os.environ['PATH']}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        self._wait("ready" if ready else "live")

    def is_ready(self) -> bool:
        """What its health says, which a balancer would ask."""
        return self._says("ready")

    def kill(self) -> None:
        """End it as a host that loses power does: the server and the processes of its models."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill_models(self) -> int:
        """End the processes of its models, not the server; how many there were."""
        assert self._process is not None
        stubs = _stubs_of(self._process.pid)
        for pid in stubs:
            os.kill(pid, signal.SIGKILL)
        return len(stubs)

    def _wait(self, state: str) -> None:
        assert self._process is not None
        limit = time.monotonic() + 60
        while not self._says(state):
            said = self.log.read_text(errors="replace")[-4000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < limit, said
            time.sleep(0.1)

    def _says(self, state: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._http}/v2/health/{state}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def _python_library() -> str:
    """Where libpython of the environment's own interpreter is, which Triton's processes load."""
    python = VENV / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False).stdout.strip()
    return found or str(sysconfig.get_config_var("LIBDIR"))


def _stubs_of(session: int) -> list[int]:
    """The processes of the Python backend in the session of a server."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                words = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if int(fields[3]) == session and b"triton_python_backend_stub" in words.split(b"\0")[0]:
                found.append(int(entry.name))
    return found
