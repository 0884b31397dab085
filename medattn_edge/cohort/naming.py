"""Names of a cohort's outputs: a pattern for each kind, and never one name for two cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Final

from medattn_edge.cohort.case import Case
from medattn_edge.cohort.settings import STANDARD_NAME, CohortSettings
from medattn_edge.errors import UsageError, quoted
from medattn_edge.host.system import WINDOWS, unfit_for_windows
from medattn_edge.inference import Outputs
from medattn_edge.io import format_of
from medattn_edge.io.files import check_labels_format

FIELDS: Final = ("case", "folder")
_EXAMPLES: Final = {
    "--name": STANDARD_NAME,
    "--probabilities": "{case}_probabilities.nii.gz",
    "--attention": "{case}_attention.nii.gz",
    "--overlay": "{case}.png",
    "--rtstruct": "{case}.rtstruct.dcm",
    "--sr": "{case}.sr.dcm",
}
_SUFFIXES: Final = {"--overlay": ".png", "--rtstruct": ".dcm", "--sr": ".dcm"}  # of what has one format
_MAX_BYTES: Final = 200  # of a name; file systems take 255, and temporary files have longer ones


@dataclass(frozen=True, eq=False)
class Job:
    """One case with its names.

    Attributes:
        case: what is segmented.
        name: of the case in tables, and of its record: the pattern of the labels up to the last field in it.
        outputs: names of files, without a folder.
    """

    case: Case
    name: str
    outputs: Outputs

    @property
    def record(self) -> str:
        """The name of the record's file."""
        return f"{self.name}.json"

    def outputs_in(self, folder: Path) -> Outputs:
        """The outputs in a folder, where key slices are named as `Outputs` names them."""
        given = self.outputs

        def placed(path: Path | None) -> Path | None:
            return None if path is None else folder / path

        return Outputs(
            folder / given.labels,
            placed(given.probabilities),
            placed(given.attention),
            placed(given.overlay),
            given.key_slices,
            given.seg_kind,
            regions=given.regions,
            rtstruct=placed(given.rtstruct),
            sr=placed(given.sr),
        )

    def final_name(self, name: str) -> str:
        """What a file of `outputs_in` is called among those of other cases: key slices get the case's name."""
        own = {self.record, *(path.name for path in replace(self.outputs, key_slices=0).paths)}
        return name if name in own else f"{self.name}_{name}"

    @property
    def names(self) -> tuple[str, ...]:
        """Every file that may be written, the record last."""
        return (*(self.final_name(path.name) for path in self.outputs.paths), self.record)


def jobs_of(cases: Sequence[Case], settings: CohortSettings) -> tuple[Job, ...]:
    """The cases with the names of their outputs.

    Raises:
        UsageError: for a pattern that cannot be read or has a format without labels, for a name that is no plain file
            name, and when two cases would write one file, with which.
    """
    _check_patterns(settings)
    jobs = tuple(_job(case, settings) for case in cases)
    owners: dict[str, Case] = {}
    for job in jobs:
        for name in job.names:
            _check_name(name, job.case)
            other = owners.setdefault(name, job.case)
            if other is not job.case:
                raise UsageError(
                    f"two cases would write {name}: {other.name!r} ({other.shown}) and "
                    f"{job.case.name!r} ({job.case.shown})",
                    expected="a name of its own for every case",
                    hint=_hint(other, job.case, settings),
                )
        if len(set(job.names)) < len(job.names):
            raise UsageError(
                f"two outputs of {job.case.name} have one name: {', '.join(job.names)}",
                expected="a pattern of its own for each",
                hint="--name '{case}_labels.nii.gz'",
            )
    return jobs


def _job(case: Case, settings: CohortSettings) -> Job:
    values = {"case": case.name, "folder": case.folder}

    def path(pattern: str) -> Path | None:
        return Path(pattern.format(**values)) if pattern else None

    labels = Path(settings.name.format(**values))
    outputs = Outputs(
        labels,
        path(settings.probabilities),
        path(settings.attention),
        path(settings.overlay),
        settings.key_slices,
        settings.seg_kind,
        regions=settings.regions,
        rtstruct=path(settings.rtstruct),
        sr=path(settings.sr),
    )
    start = settings.name[: settings.name.rindex("}") + 1]
    return Job(case, start.format(**values), outputs)


def _check_patterns(settings: CohortSettings) -> None:
    patterns = {
        "--name": settings.name,
        "--probabilities": settings.probabilities,
        "--attention": settings.attention,
        "--overlay": settings.overlay,
        "--rtstruct": settings.rtstruct,
        "--sr": settings.sr,
    }
    for option, pattern in patterns.items():
        if not pattern and option != "--name":
            continue
        _check_pattern(option, pattern)
        suffix = _SUFFIXES.get(option)
        if suffix is None:
            format_of(Path(pattern))
        elif not pattern.lower().endswith(suffix):
            hint = f"{option} {quoted(_EXAMPLES[option])}"
            raise UsageError(f"{option} {pattern!r}", expected=f"a {suffix}", hint=hint)
    if format_of(Path(settings.name)).name != "dicom":
        check_labels_format(Path(settings.name))


def _check_pattern(option: str, pattern: str) -> None:
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        parts = []
    fields = [name for _, name, _, _ in parts if name is not None]
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    if not fields or not plain or set(fields) - set(FIELDS) or any(mark in pattern for mark in ("/", "{{", "}}")):
        raise UsageError(
            f"{option} {pattern!r}",
            expected="a file name with {case} in it, and {folder} where that helps, without folders of its own",
            hint=f"{option} {quoted(_EXAMPLES[option])}",
        )


def _check_name(name: str, case: Case) -> None:
    strange = "/" in name or "\0" in name or name.startswith(".") or name in ("", ".", "..")
    strange = strange or (WINDOWS and unfit_for_windows(name))
    if strange or len(name.encode(errors="surrogateescape")) > _MAX_BYTES:
        raise UsageError(
            f"the name {name!r} of the case {case.name!r} ({case.shown})",
            expected=f"a plain file name of at most {_MAX_BYTES} bytes, without / and not hidden"
            + (', without <>:"\\|?* and no device like NUL' if WINDOWS else ""),
            hint="a LIST.csv with the columns scan and case gives every case a name",
        )


def _hint(one: Case, other: Case, settings: CohortSettings) -> str:
    if one.folder != other.folder and "{folder}" not in settings.name:
        return "--name " + quoted(settings.name.replace("{case}", "{folder}_{case}"))
    return "a LIST.csv with the columns scan and case gives every case a name"
