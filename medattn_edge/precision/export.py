"""Export: checkpoint, or a network from elsewhere -> artifact in FP32 or FP16 that agrees with it.

It stands here because FP16 is made from the FP32 file that an exporter writes: of the rooms that it joins (rewrites,
inference, exporters, precision), this is the uppermost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact
from medattn_edge.backends.session import Patches
from medattn_edge.errors import UsageError
from medattn_edge.exporters import ExportSettings, export_fp32, exporter_of, random_patches
from medattn_edge.exporters.exporter import FP32_GATE
from medattn_edge.foreign import ForeignNetwork, export_foreign
from medattn_edge.inference.real_patches import real_patches
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.precision import fp16
from medattn_edge.rewrites import Rewritten, defaults, rewrite
from medattn_edge.spec import ModelSpec

RANDOM = "random"  # the name of the noise among the samples
# Patches of a scan. Half precision is judged by Dice as well, and by its largest magnitudes, which takes more than a
# glance.
SAMPLES = {"fp32": 2, "fp16": 8}


def export(
    network: Checkpoint | Rewritten | ForeignNetwork,
    path: Path | str,
    *,
    precision: str = "fp32",
    samples: Mapping[str, Patches] | None = None,
    scans: Sequence[Path | str] = (),
    settings: ExportSettings | None = None,
    gate: Thresholds | None = None,
) -> Artifact:
    """Write a network, checked on real and random input before the file and its manifest appear.

    Args:
        network: what `rewrite` returned; a checkpoint, which is then rewritten as files of this suffix are by default;
            or what `read_foreign` returned.
        path: NAME.onnx or NAME.torchscript.
        precision: fp32, or fp16 with FP32 islands, for ONNX only.
        samples: name -> real input, float32 (n, C, *patch); patches of the scans by default. Noise is added to it.
        scans: files or DICOM folders to take the samples from; by default the CT that slicerio ships.
        settings: batch, opset and attention output.
        gate: what the real input must reach; FP32_GATE or fp16.FP16_GATE by default.

    Returns:
        The artifact.

    Raises:
        AgreementError: when a sample does not reach the gate; nothing is written.
        UsageError: for a suffix, a precision or a setting that does not fit.
        ShapeError: for a patch that the network cannot take.
        InputError: for a scan that cannot be read.
        MissingDependency: for what is not installed.
        OutputError: when the files cannot be written.
    """
    path = Path(path)
    exporter = exporter_of(path)
    check_precision(precision, path)
    spec = (network.checkpoint if isinstance(network, Rewritten) else network).spec
    if not isinstance(network, ForeignNetwork):
        (network if isinstance(network, Checkpoint) else network.checkpoint).network.check_shape(spec.patch)
    real = _real(spec, samples, scans, SAMPLES[precision])
    random = random_patches(spec, 2)
    if isinstance(network, Checkpoint):
        network = rewrite(network, defaults(exporter.name, spec.patch))

    def in_fp32(file: Path, limits: Thresholds) -> Artifact:
        inputs = {**real, RANDOM: random}
        if isinstance(network, ForeignNetwork):
            return export_foreign(network, file, inputs, settings=settings, gate=limits)
        return export_fp32(network, file, inputs, settings=settings, gate=limits)

    if precision == "fp32":
        return in_fp32(path, gate or FP32_GATE)
    with tempfile.TemporaryDirectory() as folder:
        parent = in_fp32(Path(folder) / "fp32.onnx", FP32_GATE)
        return fp16.convert(parent, path, real, random, gate=gate or fp16.FP16_GATE)


def _real(
    spec: ModelSpec, samples: Mapping[str, Patches] | None, scans: Sequence[Path | str], count: int
) -> dict[str, Patches]:
    """The samples that were given, or patches of the scans."""
    if samples is None:
        return real_patches(spec, scans, count)
    if scans:
        raise UsageError("samples and scans", expected="one of them", hint="sample_patches takes patches of a scan")
    if not samples or RANDOM in samples:
        raise UsageError(
            f"a sample named {RANDOM}" if samples else "no sample to check with",
            expected=f"real input; noise is added to it, and named {RANDOM}",
            hint="scans=[SCAN]",
        )
    return dict(samples)


def check_precision(precision: str, path: Path) -> None:
    """Raise UsageError for a precision that a file of this name cannot be exported in."""
    if precision not in SAMPLES or (precision == "fp16" and path.suffix.lower() != ".onnx"):
        raise UsageError(
            f"the precision {precision} for {path.name}",
            expected="fp32, or fp16 for a name that ends in .onnx",
            hint="medattn-edge calibrate NET.onnx SCAN -o NET.int8.onnx --profile cpu"
            if precision == "int8"
            else f"--precision fp16 -o {path.stem}.onnx",
        )
