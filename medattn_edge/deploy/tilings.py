"""Tilings: the chosen file with fewer windows, each held to the checkpoint with its own windows on whole scans."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.compile.tuning import BETTER
from medattn_edge.deploy.batches import outcome_of, too_large
from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.choice import CandidateOutcome
from medattn_edge.deploy.judging import gate
from medattn_edge.deploy.plan import OVERLAPS, DeployPlan
from medattn_edge.errors import UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.inference.tiling import Tiling, starts
from medattn_edge.process.memory import available_mb

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
Shape = tuple[int, ...]
KEPT: Final = "kept"
_DIGITS: Final = 4  # of an overlap: a step of windows is another one from 1 / patch on


@dataclass(frozen=True)
class TilingOutcome:
    """One tiling beside the checkpoint's, and why it is taken or not.

    Attributes:
        overlap: the smallest that neighbouring windows have on the judged scans.
        windows: of the judged scans together.
        runs: of the network for them, with the batch that was taken.
        ratio: the runs of the checkpoint's own windows over these.
        outcome: kept, refused, no gain, or not judged.
        reason: why; empty where it is kept.
        min_dice: the smallest Dice with the reference of any label in any judged scan; None where it was not judged.
        true_dice_share: the smallest and the largest share of the reference's true Dice; None without true labels.
        min_sqnr_db: the smallest, over the judged scans.
    """

    overlap: float
    windows: int
    runs: int
    ratio: float
    outcome: str = KEPT
    reason: str = ""
    min_dice: float | None = None
    true_dice_share: tuple[float, float] | None = None
    min_sqnr_db: float | None = None

    @property
    def title(self) -> str:
        """What it is."""
        return f"windows that overlap by {self.overlap:g}"

    @property
    def values(self) -> dict[str, float | str | None]:
        """Its figures by their names, for a report."""
        share = self.true_dice_share
        named = {
            "windows": self.windows,
            "runs": self.runs,
            "ratio": round(self.ratio, 3),
            "min_dice": self.min_dice,
            "min_true_dice_share": None if share is None else share[0],
            "max_true_dice_share": None if share is None else share[1],
            "min_sqnr_db": self.min_sqnr_db,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def figures(self) -> str:
        """What it does and how well, for people."""
        parts = [f"{self.windows} windows", f"{self.ratio:.2f} times fewer runs"]
        if self.min_dice is not None:
            parts.append(f"Dice with the reference {self.min_dice:.6f}")
        if self.true_dice_share is not None:
            parts.append("true Dice share {:.4f} to {:.4f}".format(*self.true_dice_share))
        return ", ".join(parts)

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.title}: {self.outcome}, {self.figures}{': ' if self.reason else ''}{self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        share = self.true_dice_share
        return {**vars(self), "true_dice_share": None if share is None else list(share)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TilingOutcome:
        """From `to_json`."""
        share = values["true_dice_share"]
        return cls(**{**values, "true_dice_share": None if share is None else (share[0], share[1])})


def smallest_overlap(shapes: Iterable[Shape], patch: Shape, overlap: float) -> float:
    """The smallest overlap that neighbouring windows have on some images, which is at least what is asked for.

    Windows are evenly spread, so that they share more than is asked for nearly everywhere. What was judged is what they
    shared; a file that said less would have windows on other scans that nobody has judged.

    Args:
        shapes: of the images, three sizes each.
        patch: of the network, two or three sizes.
        overlap: that is asked for.

    Returns:
        An overlap that gives these images the same windows; `overlap` itself where no image has two along an axis.
    """
    sizes = (1,) * (3 - len(patch)) + tuple(patch)
    found = [
        1 - max(after - before for before, after in itertools.pairwise(grid)) / window
        for shape in shapes
        for size, window in zip(shape, sizes, strict=True)
        if window > 1 and len(grid := starts(size, window, overlap)) > 1
    ]
    scale = 10**_DIGITS
    return max(overlap, math.floor(min(found) * scale + 1e-6) / scale) if found else overlap


def planned_tilings(
    shapes: Sequence[Shape], patch: Shape, batch: int, overlaps: Sequence[float]
) -> tuple[TilingOutcome, tuple[TilingOutcome, ...]]:
    """The tiling of a spec on some images, and the others, each once, the fewest runs first.

    Args:
        shapes: of the images.
        patch: of the network.
        batch: windows per run.
        overlaps: of the spec first, then those that are tried.
    """
    found: dict[tuple[int, ...], TilingOutcome] = {}
    for overlap in overlaps:
        counts = tuple(len(Tiling(shape, patch, overlap).windows) for shape in shapes)
        runs = sum(math.ceil(count / batch) for count in counts)
        first = next(iter(found.values()), None)
        if counts not in found:
            real = overlap if first is None else smallest_overlap(shapes, patch, overlap)
            found[counts] = TilingOutcome(real, sum(counts), runs, 1.0 if first is None else first.runs / runs)
    own, *others = found.values()
    return own, tuple(sorted(others, key=lambda one: one.runs))


def shapes_of(planned: DeployPlan) -> tuple[Shape, ...]:
    """The size of each judged scan on the network's grid."""
    spec = planned.inputs.source.loaded.spec
    return tuple(tuple(prepare(scan.read_for(spec), spec).image.shape[1:]) for scan in planned.inputs.judged)


def write_tiled(source: Path, target: Path, overlap: float) -> Artifact:
    """The same artifact with other windows: nothing but its manifest is another one.

    Args:
        source: the artifact.
        target: its copy, with the same suffix.
        overlap: of the copy's windows.
    """
    artifact = Artifact.read(source)
    manifest = artifact.manifest
    for suffix in ("", *manifest.companions):
        shutil.copyfile(source.with_suffix(suffix) if suffix else source, target.with_suffix(suffix or target.suffix))
    reference = manifest.reference_spec.overlap
    tiling = {} if overlap == reference else {"reference_overlap": reference}
    replace(manifest, spec=replace(manifest.spec, overlap=overlap), tiling=tiling).write(manifest_path(target))
    return Artifact.read(target)


class TilingSource(NamedTuple):
    """What gets other windows.

    Attributes:
        path: of the chosen file, with the batch that was taken.
        batch: patches of one of its runs.
        timed: rows of the measurement, the checkpoint's first: what each takes of the memory.
    """

    path: Path
    batch: int
    timed: Sequence[Mapping[str, Any]]


def choose_tiling(
    planned: DeployPlan, chosen: CandidatePlan, source: TilingSource, folder: Path, progress: Progress, say: Say
) -> dict[str, Any]:
    """The fewest windows that hold every threshold; the checkpoint's own where none are fewer and hold.

    Every tiling is held to the checkpoint with the checkpoint's own windows, all in one comparison.

    Args:
        planned: the plan; the windows that the overlap of its recipe gives are the only ones that are judged.
        chosen: what the file is.
        source: the file.
        folder: of the stage; the comparison and the file with the windows that are taken are kept there, where those
            are not the checkpoint's.
        progress: called with what is going on, done, and of how many.
        say: called with the outcome of every tiling.

    Returns:
        `overlap` that is taken, `first` of the checkpoint, `windows` of that, `alternatives` with their figures,
        `holds`: whether what is taken holds every threshold, and the rows of its comparison as `gate`.

    Raises:
        UsageError: the overlap of the recipe gives every judged scan the windows that it has anyway.
    """
    spec, pinned = planned.inputs.source.loaded.spec, planned.recipe.overlap
    tried = OVERLAPS if pinned is None else (pinned,)
    overlaps = (spec.overlap, *(one for one in tried if pinned is not None or one < spec.overlap))
    own, others = planned_tilings(shapes_of(planned), spec.patch, source.batch, overlaps)
    if pinned is not None and not others:
        raise _not_judged(pinned, spec.overlap)
    judged, outcomes = _able(others, chosen, source, pinned is not None)
    rows = _rows(planned, chosen, source.path, (judged, folder), progress, say) if judged else {}
    for one in judged:
        outcomes[one.overlap] = _with_figures(one, outcome_of(chosen, rows[one.overlap], (), None))
    holding = [one for one in outcomes.values() if one.outcome == KEPT]
    taken = min(holding, key=lambda one: one.runs, default=None)
    for one in holding:
        if taken is not None and one is not taken:
            why = f"windows that overlap by {taken.overlap:g} are fewer"
            outcomes[one.overlap] = replace(one, outcome="no gain", reason=why)
    for one in outcomes.values():
        say(one.text)
    _keep_only(taken, source.path, folder)
    shown = taken or (None if pinned is None else others[0])
    return {
        "overlap": own.overlap if taken is None else taken.overlap,
        "first": own.overlap,
        "windows": own.windows,
        "holds": taken is not None or pinned is None,
        "alternatives": [one.to_json() for one in outcomes.values()],
        "gate": [] if shown is None else rows.get(shown.overlap, []),
    }


def _not_judged(pinned: float, own: float) -> UsageError:
    return UsageError(
        f"an overlap of {pinned:g} gives every judged scan the windows that it has with {own:g}",
        expected="scans larger than the patch, in which other windows can be judged",
        hint="--held-out LARGER_SCAN, or leave --overlap out",
    )


def _able(
    others: Sequence[TilingOutcome], chosen: CandidatePlan, source: TilingSource, pinned: bool
) -> tuple[list[TilingOutcome], dict[float, TilingOutcome]]:
    """Those that are judged, and all by their overlap: each of them is open in a process of its own at a time."""
    outcomes = {one.overlap: one for one in others}
    for one in others:
        if one.ratio <= BETTER and not pinned:
            outcomes[one.overlap] = replace(one, outcome="no gain", reason=f"asked for is {BETTER} times fewer runs")
    judged = [one for one in outcomes.values() if one.outcome == KEPT]
    while judged and (failure := too_large(source.timed, chosen, len(judged), available_mb())):
        first = judged.pop(0)  # the fewest windows: the least likely to hold
        outcomes[first.overlap] = replace(first, outcome="not judged", reason=failure)
    return judged, outcomes


def _rows(
    planned: DeployPlan,
    chosen: CandidatePlan,
    source: Path,
    where: tuple[Sequence[TilingOutcome], Path],
    progress: Progress,
    say: Say,
) -> dict[float, list[dict[str, Any]]]:
    """Overlap -> the rows of the comparison, under the name of the chosen file."""
    tilings, folder = where
    files = {one.overlap: folder / tiled_name(source, one.overlap) for one in tilings}
    for overlap, path in files.items():
        write_tiled(source, path, overlap)
    runtimes = chosen.runtimes if source.suffix == ".onnx" else ()
    found = gate(planned, {path.name: path for path in files.values()}, folder, progress, say, runtimes)["rows"]
    return {
        overlap: [{**row, "candidate": chosen.name} for row in found if row["candidate"] == path.name]
        for overlap, path in files.items()
    }


def tiled_name(source: Path, overlap: float) -> str:
    """The file with other windows, beside those with others yet."""
    return f"{source.stem}-overlap-{overlap:g}{source.suffix}"


def _with_figures(one: TilingOutcome, found: CandidateOutcome) -> TilingOutcome:
    holds = found.verdict == "holds"
    return replace(
        one,
        outcome=KEPT if holds else "refused",
        reason="" if holds else "; ".join(found.reasons),
        min_dice=found.min_dice,
        true_dice_share=found.true_dice_share,
        min_sqnr_db=found.min_sqnr_db,
    )


def _keep_only(taken: TilingOutcome | None, source: Path, folder: Path) -> None:
    """Remove the files with windows that are not taken, and all there is where none are."""
    if taken is None:
        for path in folder.iterdir():
            path.unlink()
        return
    for path in folder.glob(f"{source.stem}-overlap-*"):
        path.unlink()
    write_tiled(source, folder / source.name, taken.overlap)
