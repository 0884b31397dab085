"""What a segmentation of a DICOM series leaves behind: the segmentation, contours, a report, and key slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medattn_edge.errors import UsageError, quoted
from medattn_edge.io.dicom.files import SUFFIXES

if TYPE_CHECKING:
    from medattn_edge.io.dicom.seg import SegFile
    from medattn_edge.io.dicom.uids import Algorithm
    from medattn_edge.io.dicom.volume import Series
    from medattn_edge.spec import Code, ModelSpec
    from medattn_edge.volume import Volume

SegKind = Literal["binary", "labelmap"]


def algorithm_of(artifact: Path, spec: ModelSpec, settings: Mapping[str, object]) -> Algorithm:
    """How an artifact and its settings are named in DICOM; another setting is another object.

    Args:
        artifact: read as a whole, for its hash; of a NAME.triton the hash is that of the model on the server.
        spec: its spec.
        settings: what decides the labels beside the model, the same names wherever they are given (`label_settings`).

    Raises:
        UsageError: for a name that DICOM cannot hold.
    """
    from importlib.metadata import version

    from medattn_edge.backends.triton.remote_model import computing_sha256
    from medattn_edge.io.dicom.uids import Algorithm

    identity = " ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    return Algorithm(spec.network, version("medattn-edge"), computing_sha256(artifact), identity)


def label_settings(
    overlap: float | None, skip_air: bool, backend: str, spec: ModelSpec, regions: str | None = None
) -> dict[str, object]:
    """The settings that go into an identity: infer and the node give the same object for the same work.

    Args:
        overlap: of neighbouring windows; None: the network's own.
        skip_air: windows outside the body were left out.
        backend: that ran the model.
        spec: the network's, of which what is done after the network counts: it is not in the model's file.
        regions: how regions that may overlap are written, None for labels that exclude each other.
    """
    used = spec.overlap if overlap is None else overlap
    settings: dict[str, object] = {"backend": backend, "overlap": f"{used:g}", "skip_air": skip_air}
    after = {"mirror": spec.mirror, "cleanup": ",".join(map(str, spec.cleanup)), "regions": regions}
    return settings | {name: value for name, value in after.items() if value}


def check_names(labels: Path, beside: Mapping[str, Path | None]) -> None:
    """Check the names of DICOM results: what a name says of a file must be so.

    Args:
        labels: what becomes a segmentation if its name ends in .dcm, whatever else that says.
        beside: option -> what is written beside it; its suffix is the option's name and .dcm.

    Raises:
        UsageError: for a name that is not DICOM's, and for labels with the name of another result.
    """
    for option, path in beside.items():
        suffix = f".{option.lstrip('-')}.dcm"
        if path is not None and not path.name.lower().endswith(SUFFIXES):
            raise UsageError(
                f"{option} {path.name}",
                expected="a DICOM file",
                hint=f"{option} {quoted(path.name.split('.')[0] + suffix)}",
            )
        if labels.name.lower().endswith(suffix):
            raise UsageError(
                f"-o {labels.name}, which says that it is no segmentation",
                expected=f"labels with -o, and {option} beside them",
                hint=f"-o seg.dcm {option} {quoted(labels)}",
            )


def write_segmentation(
    path: Path,
    labels: Volume,
    names: Sequence[str],
    series: Series,
    algorithm: Algorithm,
    *,
    codes: Mapping[str, Code],
    kind: SegKind = "binary",
) -> tuple[SegFile, list[str]]:
    """Write seg.dcm; the file, and what people should know of it. Raises as `write_seg` does.

    One thread at a time: DICOM's libraries have settings for the whole process, which writing changes for a while.
    """
    from medattn_edge.io.dicom.seg import write_seg

    file = write_seg(path, labels, names, series, algorithm, kind=kind, codes=codes)
    notes = list(file.remarks)
    if file.uncoded:
        notes.append(f"no anatomy is known for {', '.join(file.uncoded)}: written as tissue; give the spec a code")
    return file, notes


def write_contours(
    path: Path, labels: Volume, names: Sequence[str], series: Series, algorithm: Algorithm, codes: Mapping[str, Code]
) -> list[str]:
    """Write an RT structure set; what people should know of it. Raises as `write_rtstruct` does.

    One thread at a time, as for `write_segmentation`.
    """
    from medattn_edge.io.dicom.rtstruct import write_rtstruct

    file = write_rtstruct(path, labels, names, series, algorithm, codes=codes)
    notes = list(file.remarks)
    if file.uncoded:
        notes.append(f"no anatomy is known for {', '.join(file.uncoded)}: an ROI without a code; give the spec one")
    return notes


def write_probabilities(
    path: Path, maps: Volume, names: Sequence[str], series: Series, algorithm: Algorithm
) -> list[str]:
    """Write a Parametric Map; what people should know of it. Raises as `write_parametric_map` does.

    One thread at a time, as for `write_segmentation`.
    """
    from medattn_edge.io.dicom.parametric_map import write_parametric_map

    return list(write_parametric_map(path, maps, names, series, algorithm).remarks)


def write_report(
    path: Path,
    labels: Volume,
    names: Sequence[str],
    series: Series,
    algorithm: Algorithm,
    segmentation: SegFile,
    *,
    codes: Mapping[str, Code],
) -> None:
    """Write a measurement report on what `write_segmentation` wrote. Raises as `write_sr` does.

    One thread at a time, as for `write_segmentation`.
    """
    from medattn_edge.io.dicom.sr import write_sr

    write_sr(path, labels, names, series, algorithm, segmentation, codes=codes)


def write_key_slices(
    output: Path,
    count: int,
    volume: Volume,
    shown: tuple[Volume, Sequence[str]],
    series: Series,
    algorithm: Algorithm,
    *,
    codes: Mapping[str, Code],
) -> tuple[Path, ...]:
    """Write key_1.dcm, ... beside the file `output`; returns them. Raises as `secondary_capture` does.

    shown: labels or regions and their names, as `secondary_capture` takes them; codes: of labels, by name.

    One thread at a time, as for `write_segmentation`.
    """
    from medattn_edge.io.dicom.secondary_capture import secondary_capture

    return secondary_capture(output.parent, volume, *shown, series, algorithm, count, codes=codes)
