"""Where the time of a file goes: milliseconds of each kind of operator, as OpenVINO counts them.

    python benchmarks/operators.py ARTIFACT... -o results/operators-NAME.json [--runs 30] [--threads 2]

The files are ONNX files or IRs of one network, ours first, and take turns. What OpenVINO made of a graph is counted,
not the graph: an operator that was fused into a convolution has no time of its own. Counting itself takes time, so that
the sum is more than what `suite.py` measures; read the shares.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from operator_table import table
from volume import environment

Times = dict[tuple[str, str], float]  # (operator, primitive) -> ms of one run


def main(
    artifacts: list[Path],
    output: Annotated[Path, typer.Option("--output", "-o")],
    runs: Annotated[int, typer.Option(min=1)] = 30,
    threads: Annotated[int, typer.Option(min=0, help="0 is one for each core that this process may use.")] = 0,
) -> None:
    """Count the operators' times."""
    from medattn_edge.artifact import Artifact
    from medattn_edge.exporters import random_patches
    from medattn_edge.host.cores import usable_cores

    threads, before = threads or usable_cores(), os.getloadavg()
    names = [path.name for path in artifacts]
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"{', '.join(names)}: two files of one name cannot be told apart")
    requests = [opened(path, threads) for path in artifacts]
    patch = random_patches(Artifact.read(artifacts[0]).spec, 1)
    counted: list[list[Times]] = [[] for _ in requests]
    for index in range(runs + 1):
        for request, times in zip(requests, counted, strict=True):
            request.infer({0: patch})
            if index:  # the first run also sets up
                times.append(times_of(request.profiling_info))
    document = {
        "environment": environment(threads) | {"load_average": {"before": before, "after": os.getloadavg()}},
        "patch": list(patch.shape),
        "runs": runs,
        "files": {name: summed(one) for name, one in zip(names, counted, strict=True)},
    }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(table(document))


def opened(path: Path, threads: int) -> Any:
    """A request that counts, of the model that a session would run; of a file without a manifest, a peer's, in FP32."""
    from medattn_edge.artifact import Artifact, manifest_path
    from medattn_edge.backends.openvino.library import imported
    from medattn_edge.backends.openvino.model import compiled, configuration, precision_of

    ov, count = imported(), {"PERF_COUNT": True}
    if not manifest_path(path).is_file():
        model = ov.Core().compile_model(str(path), "CPU", configuration(ov, "f32", threads) | count)
        return model.create_infer_request()
    artifact = Artifact.read(path)
    settings = configuration(ov, precision_of(artifact.manifest.target), threads) | count
    return compiled(ov, artifact.path, artifact.manifest, settings).create_infer_request()


def times_of(information: Iterable[Any]) -> Times:
    """Of one run: what was executed, by the operator of the graph and the primitive that computed it."""
    times = defaultdict[tuple[str, str], float](float)
    for one in information:
        if one.real_time.total_seconds() > 0:
            times[one.node_type, one.exec_type] += one.real_time.total_seconds() * 1e3
    return dict(times)


def summed(runs: list[Times]) -> dict[str, Any]:
    """Medians of all runs, the longest first."""
    kinds = {kind for run in runs for kind in run}
    medians = {kind: statistics.median(run.get(kind, 0.0) for run in runs) for kind in kinds}
    total = sum(medians.values())
    rows = [
        {"operator": operator, "primitive": primitive, "ms": ms, "share": ms / total}
        for (operator, primitive), ms in sorted(medians.items(), key=lambda one: -one[1])
    ]
    return {"ms": total, "operators": rows}


if __name__ == "__main__":
    typer.run(main)
