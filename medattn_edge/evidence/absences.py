"""What a reader might look for in a report and not find, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from medattn_edge.evidence.records import Evidence, NotMeasured
from medattn_edge.evidence.volumes import MIN_CASES


def absences(
    evidence: Evidence,
    left_out: Mapping[str, str],
    untimed: str,
    *,
    labelled: bool,
    inside: Sequence[NotMeasured] = (),
) -> tuple[NotMeasured, ...]:
    """Everything that was not measured.

    Args:
        evidence: as far as it is known.
        left_out: runtime -> why it was not compared.
        untimed: why nothing was timed; empty when something was.
        labelled: whether there are true labels.
        inside: maps and layers that were asked for, and could not be had.
    """
    found = [
        *_of_truth(labelled),
        *_of_runtimes(evidence, left_out, untimed),
        *_of_cases(evidence),
        *inside,
        *_of_layers_and_maps(evidence, {one.what.partition(" of ")[0] for one in inside}),
    ]
    return tuple(dict.fromkeys(found))


def _of_truth(labelled: bool) -> Iterator[NotMeasured]:
    if not labelled:
        yield NotMeasured(
            "True Dice, and its share of the reference's",
            "no true labels were given (--labels): all figures say how near the artifact is to its reference, and none "
            "how near the reference is to the truth",
        )
    yield NotMeasured(
        "Clinical performance",
        "the scans of this report are those that were given; whether they stand for the patients of a site is for "
        "whoever signs to judge",
    )


def _of_runtimes(evidence: Evidence, left_out: Mapping[str, str], untimed: str) -> Iterator[NotMeasured]:
    for name, why in left_out.items():
        yield NotMeasured(f"Agreement in {name}", why)
    if untimed:
        yield NotMeasured("Latency, memory and roofline", untimed)
    latency = evidence.latency or {"left_out": {}, "rows": []}
    for name, why in latency["left_out"].items():
        yield NotMeasured(f"Latency in {name}", why)
    for row in latency["rows"]:
        if row["p50_ms"] is None:
            reason = "; ".join(row["failures"]) or "it was not timed"
            yield NotMeasured(f"Latency of {row['artifact']} in {row['backend']}", reason)
        elif row["fraction_of_peak"] is None:
            reason = f"no peak of {row['precision']} was measured on {row['device']}"
            yield NotMeasured(f"Roofline of {row['artifact']} in {row['backend']}", reason)
    peaks = evidence.environment.get("roofline", {}).get("left_out", {})
    for name, why in peaks.items():
        yield NotMeasured(f"Peak of this host in {name}", why)
    devices = {row["device"] for row in latency["rows"]}
    if not any(device.startswith("cuda") for device in devices):
        yield NotMeasured("Speed and answer on a GPU", "everything here ran on the CPU")
    if latency["rows"]:
        yield NotMeasured(
            "Time of a whole scan", "one run of the network is timed; reading, windows and writing are not in it"
        )


def _of_cases(evidence: Evidence) -> Iterator[NotMeasured]:
    count = len(evidence.cases)
    if count < MIN_CASES:
        cases = f"{count} case{'' if count == 1 else 's'}"
        yield NotMeasured("Bland and Altman's agreement of volumes", f"{cases}, and a spread takes {MIN_CASES} or more")
    elif not evidence.volumes:
        reason = f"no structure was found in {MIN_CASES} cases or more"
        yield NotMeasured("Bland and Altman's agreement of volumes", reason)
    for case in evidence.cases:
        if case.unit == "pixel":
            yield NotMeasured(f"Millimetres and millilitres of {case.name}", "its file has no spacing")
        for run in case.runs:
            for one in run.labels:
                if one.not_judged:
                    yield NotMeasured(f"Gate of {one.label} on {case.name}", one.not_judged)
    finished = {(run.artifact, run.backend) for case in evidence.cases for run in case.runs}
    for row in evidence.runs:
        if (row["artifact"], row["backend"]) not in finished:
            reason = "; ".join(row["failures"]) or "it finished no scan"
            yield NotMeasured(f"Figures of {row['artifact']} in {row['backend']}", reason)
    if evidence.cases and not evidence.overlays:
        yield NotMeasured("Pictures of the worst slices", "none were asked for (--pictures 0)")


def _of_layers_and_maps(evidence: Evidence, tried: Collection[str]) -> Iterator[NotMeasured]:
    if not evidence.layers and "SQNR by layer" not in tried:
        yield NotMeasured(
            "SQNR by layer",
            "it was not asked for (--layers), and no manifest has it: `calibrate` measures it only where INT8 first "
            "misses the gate",
        )
    if not evidence.attention and "Attention maps" not in tried:
        yield NotMeasured("Attention maps", "they were not asked for (--attention)")
    if not evidence.candidates:
        yield NotMeasured("Candidates that lost", "no manifest tells of one")
