"""compare: does a candidate still say what the reference says?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge.errors import ScanError, UsageError

from . import console

if TYPE_CHECKING:
    from medattn_edge.agreement import Thresholds
    from medattn_edge.backends.session import Session
    from medattn_edge.inference import Settings
    from medattn_edge.volume import Volume

Option = typer.Option


def command(  # noqa: PLR0913
    reference: Annotated[Path, typer.Argument(help="The checkpoint (eager FP32), or an artifact.")],
    files: Annotated[list[Path], typer.Argument(metavar="CANDIDATE ... SCAN ...", help="Artifacts, then scans.")],
    labels: Annotated[list[Path] | None, Option("--labels", help="True labels, one file per scan, in order.")] = None,
    label_value: Annotated[
        list[str] | None, Option("--label-value", metavar="NAME=VALUE", help="A label's value in --labels; repeat it.")
    ] = None,
    min_dice: Annotated[float | None, Option("--min-dice", help="Dice with the reference, every label.")] = 0.999,
    min_sqnr_db: Annotated[float | None, Option("--min-sqnr-db", help="Of the logits.")] = None,
    min_label_match: Annotated[float | None, Option("--min-label-match", help="Share of equal voxels.")] = None,
    max_volume_change: Annotated[float | None, Option("--max-volume-change", help="In %, every label.")] = None,
    min_dice_ratio: Annotated[
        float | None, Option("--min-dice-ratio", help="True Dice over the reference's, every label; needs --labels.")
    ] = None,
    atol: Annotated[float | None, Option("--atol", help="Largest difference of two logits.")] = None,
    device: Annotated[str, Option("--device", help="Of the candidates: cpu or cuda:INDEX.")] = "cpu",
    threads: Annotated[int, Option("--threads", min=0, help="Of the CPU; 0 leaves it to the runtime.")] = 0,
    overlap: Annotated[float, Option("--overlap", help="Of neighbouring windows.")] = 0.5,
    batch: Annotated[int, Option("--batch", min=1, help="Windows per run.")] = 4,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Compare candidates with the reference on scans; exit code 1 when a threshold is not reached."""
    from medattn_edge.agreement import Thresholds
    from medattn_edge.backends import open_session
    from medattn_edge.inference import Settings

    candidates, scans = _split(files)
    if labels and len(labels) != len(scans):
        raise UsageError(
            f"{len(labels)} label files for {len(scans)} scans",
            expected="one each, in order",
            hint="--labels A.nii.gz --labels B.nii.gz",
        )
    if min_dice_ratio is not None and not labels:
        raise UsageError(
            "--min-dice-ratio without --labels", expected="true labels to compare with", hint="--labels FILE"
        )
    gate = Thresholds(min_dice, min_sqnr_db, min_label_match, atol, max_volume_change)
    truth = _Truth(labels or [], _values(label_value or []), min_dice_ratio)
    settings = Settings(overlap, batch)
    rows = []
    for path in candidates:
        with (
            open_session(path, device=device, threads=threads) as candidate,
            open_session(reference, threads=threads, spec=_spec_for(reference, path, candidate)) as expected,
        ):
            cases = [_case(expected, candidate, scan, settings, gate, truth, index) for index, scan in enumerate(scans)]
        verdict = "pass" if all(case["verdict"] == "pass" for case in cases) else "fail"
        rows.append({"artifact": str(path), "backend": candidate.facts["backend"], "verdict": verdict, "cases": cases})
    verdict = "pass" if all(row["verdict"] == "pass" for row in rows) else "fail"
    asked = gate.to_json() | ({"min_dice_ratio": min_dice_ratio} if min_dice_ratio is not None else {})
    document = {"reference": str(reference), "thresholds": asked, "verdict": verdict, "candidates": rows}
    if json:
        console.print_json(document)
    else:
        _tell(document)
    if verdict == "fail":
        raise typer.Exit(1)


class _Truth:
    """True labels, when there are any, and how much of the reference's Dice a candidate must keep."""

    def __init__(self, paths: list[Path], values: dict[str, list[int]], ratio: float | None) -> None:
        self.paths, self.values, self.ratio = paths, values, ratio

    def read(self, index: int, scan: Volume, names: tuple[str, ...]) -> Any:
        """The true labels of a scan, in the network's numbers and the scan's grid."""
        import numpy as np

        from medattn_edge.io import read_labels

        unknown = sorted(set(self.values) - set(names))
        if unknown:
            raise UsageError(
                f"--label-value names {', '.join(unknown)}",
                expected=f"some of {', '.join(names[1:])}",
                hint=f"--label-value {names[1]}=1",
            )
        found = read_labels(self.paths[index]).like(scan).voxels
        truth = np.zeros(found.shape, np.uint16)
        for value, name in enumerate(names[1:], start=1):
            truth[np.isin(found, self.values.get(name, [value]))] = value
        if not truth.any():
            raise ScanError(
                f"{self.paths[index]} has none of the network's labels",
                expected=", ".join(f"{name}={value}" for value, name in enumerate(names) if value),
                hint="--label-value NAME=VALUE for labels with other numbers",
            )
        return truth


def _case(
    reference: Session, candidate: Session, path: Path, settings: Settings, gate: Thresholds, truth: _Truth, index: int
) -> dict[str, Any]:
    from medattn_edge.agreement import dice_per_label
    from medattn_edge.inference import compare
    from medattn_edge.io import read_volume

    volume = read_volume(path)
    with console.progress(path.name) as progress:
        agreement, expected, found = compare(reference, candidate, volume, settings, progress)
    failures = gate.failures(agreement)
    extra: dict[str, Any] = {}
    if truth.paths:
        names = reference.spec.labels
        right = truth.read(index, volume, names)
        before, after = (dice_per_label(right, labels.voxels, names) for labels in (expected, found))
        extra = {"reference_dice": before, "candidate_dice": after}
        failures += _lost(before, after, truth.ratio)
    return {
        "scan": str(path),
        **agreement.to_json(),
        **extra,
        "verdict": "fail" if failures else "pass",
        "failures": failures,
    }


def _lost(before: dict[str, float], after: dict[str, float], ratio: float | None) -> list[str]:
    if ratio is None:
        return []
    return [
        f"true Dice of {name} is {after[name]:.6f}, below {ratio:g} of the reference's {before[name]:.6f}"
        for name in before
        if not after[name] >= ratio * before[name]
    ]


def _split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Candidates are what a backend opens; the rest are scans."""
    from medattn_edge.backends import backends

    suffixes = {suffix for backend in backends().values() for suffix in backend.suffixes}
    candidates = [path for path in files if path.suffix.lower() in suffixes]
    scans = [path for path in files if path.suffix.lower() not in suffixes]
    if not candidates or not scans or files != [*candidates, *scans]:
        raise UsageError(
            f"{len(candidates)} candidate(s) and {len(scans)} scan(s) in this order",
            expected="at least one candidate, then at least one scan",
            hint="medattn-edge compare CHECKPOINT NET.onnx SCAN.nii.gz",
        )
    return candidates, scans


def _spec_for(reference: Path, path: Path, candidate: Session) -> Any:
    """The candidate's spec when it was made from the reference: the checkpoint may say less, or another patch."""
    from medattn_edge.artifact import sha256
    from medattn_edge.backends import backend_of

    lineage = candidate.facts.get("lineage")
    if backend_of(reference).name != "eager" or lineage is None:
        return None
    if sha256(reference) not in lineage:
        console.note(f"{path.name} was not made from {reference.name}")
        return None
    return candidate.spec


def _values(texts: list[str]) -> dict[str, list[int]]:
    values = {}
    for text in texts:
        name, equals, numbers = text.partition("=")
        if not equals or not all(number.isdigit() for number in numbers.split(",")):
            raise UsageError(
                f"the label value {text!r} cannot be read",
                expected="NAME=VALUE[,VALUE...]",
                hint="--label-value right_lung=5",
            )
        values[name] = [int(number) for number in numbers.split(",")]
    return values


def _tell(document: dict[str, Any]) -> None:
    for row in document["candidates"]:
        for case in row["cases"]:
            _tell_case(f"{row['artifact']} ({row['backend']}) on {Path(case['scan']).name}", case)
    asked = ", ".join(f"{name} {value:g}" for name, value in document["thresholds"].items())
    console.say(f"verdict against {document['reference']}: {document['verdict'].upper()} ({asked})")


def _tell_case(title: str, case: dict[str, Any]) -> None:
    from rich.table import Table

    console.say(title)
    console.say(
        f"  SQNR {_number(case['sqnr_db'], '.1f')} dB, largest difference {_number(case['max_abs'], '.2g')}, "
        f"label match {case['label_match']:.6f}, {case['flips']} flips ({case['boundary_flips']} on a boundary)"
    )
    columns = {"Dice": case["dice"], "volume change %": case["volume_change_percent"]}
    columns |= {"true Dice, reference": case["reference_dice"]} if "reference_dice" in case else {}
    columns |= {"true Dice, candidate": case["candidate_dice"]} if "candidate_dice" in case else {}
    table = Table("label", *columns)
    for label in case["dice"]:
        table.add_row(label, *(_number(values[label], ".6f") for values in columns.values()))
    console.show(table)
    for failure in case["failures"]:
        console.say(f"  FAIL: {failure}")


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
