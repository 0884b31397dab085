"""What is special about Ray: what it listens on, what it leaves behind, and what it is not allowed to say or to do."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from medattn_edge.cohort import CohortSettings, PoolSettings, segment_cohort
from medattn_edge.cohort.ray_session import check_address
from medattn_edge.errors import MissingDependency, UsageError
from tests.cohort.conftest import scan
from tests.support import ROOT
from tests.support.ray_runs import on_ray
from tests.support.workers import alive, kill, worker_pids

LOOPBACK = ("127.", "::1", "::ffff:127.")


def descendants(pid: int) -> set[int]:
    """A process and all that it has started, and so on."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, before = {pid}, set[int]()
    while found != before:
        before = set(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def inodes(pids: set[int]) -> set[str]:
    """Of the sockets that processes have open."""
    found = set()
    for pid in pids:
        try:
            for file in Path(f"/proc/{pid}/fd").iterdir():
                link = os.readlink(file)  # noqa: PTH115 - a socket is no path
                if link.startswith("socket:["):
                    found.add(link[8:-1])
        except OSError:
            continue
    return found


def address(text: str) -> str:
    """An address of /proc/net: words of 32 bits in the host's order."""
    words = [struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


def ends(pids: set[int]) -> set[tuple[str, str]]:
    """The protocol and each address, here and at the other end, of every IP socket of processes."""
    own, found = inodes(pids), set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own:
                found |= {(protocol, address(fields[1].partition(":")[0])), (protocol, remote(fields[2]))}
    return found


def remote(text: str) -> str:
    host, _, port = text.partition(":")
    return "127.0.0.1" if int(port, 16) == 0 else address(host)  # without a port there is nobody at the other end


def program(artifact: Path, scans: Path, out: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    code = "from medattn_edge.cli import main; main()"
    command = [sys.executable, "-c", code, "infer", artifact, scans, "-o", f"{out}/", "--engine", "ray", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | variables
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def many(folder: Path, count: int) -> Path:
    for number in range(count):
        scan(folder / f"s{number:02}.nii", number, depth=24)
    return folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder with a short path, as the sockets of Ray need one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_the_readers_of_sockets_see_one_on_all_interfaces_and_one_that_is_connected() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server, socket.create_connection(server.getsockname()):
        found = ends({os.getpid()})
    assert {("tcp", "0.0.0.0"), ("tcp", "127.0.0.1")} <= found


@on_ray
def test_ray_listens_on_this_host_alone_and_leaves_nothing_behind(
    small_artifact: Path, tmp_path: Path, short: Path
) -> None:
    scans, out, home = many(tmp_path / "scans", 6), tmp_path / "out", tmp_path / "home"
    home.mkdir()
    run = program(
        small_artifact, scans, out, "--workers", "2", "--threads", "1", "--overlap", "0.9", "--json",
        TMPDIR=str(short), HOME=str(home),
    )  # fmt: skip
    seen, modes, processes = set[tuple[str, str]](), set[int](), set[int]()
    while run.poll() is None:
        pids = descendants(run.pid)
        processes |= pids
        seen |= ends(pids)
        modes |= {stat.S_IMODE(folder.stat().st_mode) for folder in short.glob("medattn-edge-ray-*")}
        time.sleep(0.05)
    text, err = run.communicate()
    assert run.returncode == 0, err
    assert len(json.loads(text)["done"]) == 6, "nothing but the document on stdout"
    assert err.count("ray") == 0, err
    assert len(processes) >= 4
    assert {protocol for protocol, _ in seen} >= {"tcp"}
    assert not [end for end in seen if not end[1].startswith(LOOPBACK)]
    assert modes == {0o700}
    assert not list(short.iterdir())
    assert not list(home.iterdir()), "no token, and nothing of usage"
    assert not [pid for pid in processes if alive(pid)]


@on_ray
def test_what_a_killed_run_left_of_ray_is_gone_after_the_next_one(
    small_artifact: Path, tmp_path: Path, short: Path
) -> None:
    scans, out = many(tmp_path / "scans", 12), tmp_path / "out"
    words, where = ("--workers", "2", "--overlap", "0.9"), {"TMPDIR": str(short)}
    run = program(small_artifact, scans, out, *words, **where)
    while not worker_pids(out):
        assert run.poll() is None
        time.sleep(0.05)
    processes = descendants(run.pid)
    kill(run.pid)
    run.communicate()
    assert list(short.glob("medattn-edge-ray-*"))
    again = program(small_artifact, scans, out, *words, "--resume", **where)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert not list(short.iterdir())
    assert not [pid for pid in processes if alive(pid)]
    assert not list(out.glob(".*"))


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, int]]:
    """The address of a cluster of two nodes with a CPU each, and the process of the second one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder / 'r'}"]
    nodes = list[subprocess.Popen[bytes]]()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    try:
        for more in (head, [f"--address=127.0.0.1:{port}"]):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            nodes.append(subprocess.Popen([*command, *more], env=environment, **quiet))
            wait_for_agent(nodes[-1].pid)
        yield f"127.0.0.1:{port}", nodes[1].pid
    finally:
        for node in nodes:
            for pid in descendants(node.pid):
                kill(pid)
            node.wait()


def wait_for_agent(node: int) -> None:
    """Until a node can start workers."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for pid in descendants(node):
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RuntimeEnvAgent"):
                    return
        time.sleep(0.1)
    raise TimeoutError("a node of Ray")


@on_ray
def test_a_node_of_a_cluster_that_dies_costs_no_case_and_the_other_one_goes_on(
    small_artifact: Path, tmp_path: Path, short: Path
) -> None:
    scans, out = many(tmp_path / "scans", 24), tmp_path / "out"
    with cluster(short) as (where, second):
        words = ("--address", where, "--workers", "2", "--threads", "1", "--overlap", "0.9")
        run = program(small_artifact, scans, out, *words, "--json")
        while len(list(out.glob("*.json"))) < 4 or len(worker_pids(out)) < 2:
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        for pid in descendants(second):
            kill(pid)
        text, err = run.communicate()
    assert run.returncode == 0, err
    outcome = json.loads(text)
    assert len(outcome["done"]) == 24
    assert outcome["workers_lost"] == 1, "it was killed while it worked"


def test_without_ray_the_extra_is_named_and_nothing_is_done(
    small_artifact: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    settings = CohortSettings(pool=PoolSettings(engine="ray"))
    with pytest.raises(MissingDependency, match="extra 'ray'"):
        segment_cohort(small_artifact, scans, tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses_of_a_cluster(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379", "a b:1"])
def test_what_is_no_address_of_a_cluster(address: str) -> None:
    with pytest.raises(UsageError, match="the address"):
        check_address(address)
