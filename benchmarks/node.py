"""A node, measured from outside: from the last C-STORE of a series to its segmentation in the archive.

    python benchmarks/node.py ARTIFACT SCAN -o results.json [--series 24] [--many 100] [--senders 4] [--deadline 5]

SCAN becomes CT series (the same voxels under new UIDs), which go to a node by C-STORE; an archive in a process of its
own writes down when it has accepted which segmentation. Cold start: from the start of the process until /ready.
Latency: one series at a time. Throughput: several senders at once. Memory: the resident sets of the node and its worker
over many series. Stages are the node's own, the whole is by the sender's and the archive's clock, which are one here.
The quiet time is part of the whole, and told: nobody can know sooner that a series is complete.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from node_peers import QUIET_S, Archive, Node, send
from volume import environment

# The series are those that the tests send as well.
sys.path.append(str(Path(__file__).parent.parent))


def main(  # noqa: PLR0913
    artifact: Path,
    scan: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    series: Annotated[int, typer.Option(min=1, help="For latency.")] = 24,
    many: Annotated[int, typer.Option(min=0, help="For memory.")] = 100,
    senders: Annotated[int, typer.Option(min=1)] = 4,
    deadline: Annotated[float, typer.Option(help="Seconds from the last C-STORE, the quiet time included.")] = 5.0,
    slices: Annotated[int, typer.Option(min=2, help="Of each series, from the middle of the scan.")] = 64,
) -> None:
    """Measure, and write one JSON file."""
    sources = made(scan, slices)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        archive = stack.enter_context(Archive())
        node = stack.enter_context(Node(Path(folder), artifact.absolute(), archive.port))
        cold = [node.start() for _ in range(5)]
        one(node, archive, sources)  # the first series of a process pays for its first imports
        latency = [one(node, archive, sources) for _ in range(series)]
        stages = node.status()["stages"]
        throughput = at_once(node, archive, sources, senders, max(2, series // senders))
        memory = []
        for _ in range(many):
            one(node, archive, sources)
            memory.append(node.memory())
        last = node.status()
    settled = memory[len(memory) // 10 :]
    document = {
        "kind": "node",
        "environment": environment(0),
        "artifact": artifact.name,
        "scan": {"slices": len(sources), "rows": int(sources[0].Rows), "columns": int(sources[0].Columns)},
        "quiet_s": QUIET_S,
        "cold_start_s": {"runs": cold, "median": statistics.median(cold)},
        "latency": {
            "series": len(latency),
            "whole_s": spread(latency),
            "deadline_s": deadline,
            "deadline_misses": sum(seconds > deadline for seconds in latency),
            "stages_s": {name: {part: told[part] for part in ("p50", "p90", "max")} for name, told in stages.items()},
        },
        "throughput": throughput,
        "memory": {
            "series": len(memory),
            "node_mb": growth([node_mb for node_mb, _ in settled]),
            "worker_mb": growth([worker_mb for _, worker_mb in settled]),
        }
        if memory
        else None,
        "states": last["states"],
    }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: document[key] for key in ("cold_start_s", "latency", "throughput", "memory")}, indent=1))


def made(scan: Path, slices: int) -> list[Any]:
    """The slices of one CT series."""
    import numpy as np

    from medattn_edge.io import read_volume
    from tests.support.dicom_phantoms import make_series

    volume = read_volume(scan).to_lps()
    start = max(0, (volume.shape[0] - slices) // 2)
    affine = np.array(volume.affine)
    affine[:3, 3] = volume.point(start, 0, 0)
    voxels = np.ascontiguousarray(volume.voxels[start : start + slices]).round().astype(np.int16)
    return list(make_series(voxels, affine))


def one(node: Node, archive: Archive, sources: list[Any]) -> float:
    """Send one series; seconds from the answer to its last object until the archive has its segmentation."""
    uid, sent = send(node.port, sources)
    return archive.wait(uid) - sent


def at_once(node: Node, archive: Archive, sources: list[Any], senders: int, each: int) -> dict[str, Any]:
    """Several senders, each with several series; from the first association to the last segmentation."""
    uids: list[str] = []

    def work() -> None:
        for _ in range(each):
            uids.append(send(node.port, sources)[0])

    start = time.time()
    threads = [threading.Thread(target=work) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    received = time.time()
    end = max(archive.wait(uid, 1800) for uid in uids)
    size = sum(len(source.PixelData) for source in sources) * len(uids)
    return {
        "senders": senders,
        "series": len(uids),
        "received_mb_per_s": size / 1e6 / (received - start),
        "received_objects_per_s": len(uids) * len(sources) / (received - start),
        "series_per_minute": 60 * len(uids) / (end - start),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 90th percentile and maximum, each a value that occurred."""
    ordered = sorted(values)
    count = len(ordered)
    return {"p50": ordered[(count - 1) // 2], "p90": ordered[-(-9 * count // 10) - 1], "max": ordered[-1]}


def growth(values: list[float]) -> dict[str, float]:
    """The medians of the first and the last quarter, and the largest."""
    quarter = max(1, len(values) // 4)
    return {
        "first_quarter": statistics.median(values[:quarter]),
        "last_quarter": statistics.median(values[-quarter:]),
        "max": max(values),
    }


if __name__ == "__main__":
    typer.run(main)
