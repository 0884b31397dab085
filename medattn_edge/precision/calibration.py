"""Calibration: an FP32 ONNX artifact and real scans become an INT8 artifact that keeps the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medattn_edge.artifact import Artifact
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options
from medattn_edge.errors import UsageError, quoted
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.inference.truth import LabelValues, read_truth, values_of_labels
from medattn_edge.io import Scan
from medattn_edge.labels import Meaning
from medattn_edge.nearby import missing
from medattn_edge.precision.cache import Cache
from medattn_edge.precision.choice import choose_windows
from medattn_edge.precision.int8 import quantise, quantizers_for
from medattn_edge.precision.settings import CalibrationSettings
from medattn_edge.precision.trials import Progress
from medattn_edge.precision.windows import ScanFacts, ScanSource, Truth, random_scan
from medattn_edge.volume import Volume

AnyScan = Path | str | Scan | Volume
_NO_VALUES: Mapping[str, Sequence[int]] = {}


def calibrate(  # noqa: PLR0913
    artifact: Artifact | Path | str,
    scans: Sequence[AnyScan],
    output: Path | str,
    *,
    settings: CalibrationSettings,
    held_out: Sequence[AnyScan] = (),
    labels: Sequence[Path | str] = (),
    label_values: LabelValues = _NO_VALUES,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Quantise an artifact to INT8, calibrated on scans and judged on windows that it was not calibrated on.

    Every scan is read and resampled once. The manifest's recipe says what was calibrated and judged on, what every
    quantizer gave, which layers stayed in floating point and why, and how fast the file is against FP32.

    Args:
        artifact: an FP32 ONNX artifact, or its path.
        scans: to calibrate on: volumes, or paths of whatever `as_scan` takes, DICOM folders among them,
            those of several channels joined by `+`.
        output: NAME.onnx (Q/DQ), or NAME.xml for OpenVINO.
        settings: what to ask; see `CalibrationSettings`.
        held_out: scans to judge on; by default the last of `scans`, or a part of it when it is the only one.
        labels: files with the true labels, one each, of the held-out scans, or, without any, of all scans: the gate is
            then on both the Dice with the reference and the share of the reference's true Dice.
        label_values: name -> its values in these files; a label that is not in it has its own number there.
        cache: where measured ranges and rankings are kept; None for the user's own folder.
        progress: called with what is done, how many steps of it, and of how many.

    Returns:
        The artifact that was written.

    Raises:
        AgreementError: the gate cannot be held within the trials; nothing was written.
        UsageError: settings, labels or scans that nothing can follow, or an artifact that is not FP32 ONNX.
        ScanError: there is nothing to judge of a label; see `inference.judged`.
        InputError: a scan, a file of labels or the artifact does not exist or cannot be used.
        HostError: the output's folder is missing, or a package that is needed.
    """
    parent = artifact if isinstance(artifact, Artifact) else Artifact.read(Path(artifact))
    output = Path(output)
    _check_shares(settings, labels)
    quantizers_for(parent, output, settings)  # what stands against it is said before the work
    if not scans and not settings.allow_random:
        raise UsageError(
            "no scan to calibrate on: the ranges of noise are not those of a patient",
            expected="at least one real scan",
            hint=f"medattn-edge calibrate {quoted(parent.path)} SCAN -o {quoted(output)} --profile {settings.profile}; "
            "or --allow-random to try",
        )
    spec = parent.spec
    judged_labels, audits = JudgedLabels(Meaning.of(spec), settings.judge_labels), list[LabelAudit]()
    truths = _truths(labels, len(held_out or scans), Meaning.of(spec), label_values, audits)
    judged = [ScanSource.of(scan, number, truths[number - 1], spec) for number, scan in enumerate(held_out or scans, 1)]
    calibrated = (
        [ScanSource.of(scan, number, spec=spec) for number, scan in enumerate(scans, 1)] if held_out else judged
    )
    report = progress or (lambda what, done, total: None)
    report("choosing windows", 0, 1)
    with OnnxRuntimeSession(parent, Options(threads=settings.threads)) as session:
        windows = choose_windows(
            calibrated or [random_scan(parent.spec, settings.seed)],
            judged if held_out else [],
            session,
            (settings.samples, settings.held_out_samples),
            settings.seed,
        )
    for audit in audits:
        judged_labels.add_truth(audit)
    judged_labels.check_truth()
    sources = [*judged, *(calibrated if held_out else ())]
    facts = ScanFacts(
        notes=tuple(f"{source.name}: {note}" for source in sources for note in source.notes()),
        label_values=values_of_labels(label_values, Meaning.of(spec)) if labels else {},
        judged=judged_labels,
    )
    kept = Cache.of_user() if cache is None else cache
    return quantise(parent, output, windows, settings, kept, progress, facts)


def _check_shares(settings: CalibrationSettings, labels: Sequence[Path | str]) -> None:
    """A share of nothing is asked by mistake."""
    for option, value in (
        ("--min-true-dice-share", settings.min_true_dice_share),
        ("--max-true-dice-share", settings.max_true_dice_share),
    ):
        if value is not None and not labels:
            raise UsageError(f"{option} without --labels", expected="true labels to judge by", hint="--labels FILE")


def _truths(
    labels: Sequence[Path | str], scans: int, meaning: Meaning, values: LabelValues, audits: list[LabelAudit]
) -> list[Truth | None]:
    """Where the true labels of each scan come from; nowhere when there are no labels. Reading them adds to audits."""
    if labels and len(labels) != scans:
        raise UsageError(
            f"{len(labels)} label files for {scans} scans to judge on",
            expected="one each, in order: of the held-out scans, or, without any, of all scans",
            hint="--held-out A.nii.gz --labels A-labels.nii.gz",
        )
    if values and not labels:
        raise UsageError(
            "--label-value without --labels", expected="the file that has these values", hint="--labels FILE"
        )
    values_of_labels(values, meaning)  # what is wrong with them is said before the work
    return [_truth(Path(path), meaning, values, audits) for path in labels] or [None] * scans


def _truth(path: Path, meaning: Meaning, values: LabelValues, audits: list[LabelAudit]) -> Truth:
    if not path.exists():
        raise missing(path, "a file of labels")

    def read(scan: Volume) -> Volume:
        truth = read_truth(path, scan, meaning, values)
        audits.append(truth.audit)
        return truth.labels

    return read
