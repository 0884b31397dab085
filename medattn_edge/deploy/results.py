"""Results: what the stages of a deployment have given until now, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medattn_edge.deploy.batches import outcome_of
from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.choice import CHOSEN, CandidateOutcome, StageValues, decide
from medattn_edge.deploy.evidence_stage import StageFolders
from medattn_edge.deploy.plan import BATCH, MEASURE, THREADS, TILING, DeployPlan
from medattn_edge.deploy.recipe import DeployRecipe
from medattn_edge.deploy.tilings import KEPT, TilingOutcome, tiled_name
from medattn_edge.deploy.work_folder import StageOutcome
from medattn_edge.evidence import RejectedCandidate


@dataclass
class StageResults:
    """What the stages gave.

    Attributes:
        plan: what is done.
        done: stage -> what it gave; it grows with every stage.
    """

    plan: DeployPlan
    done: dict[str, StageOutcome] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Patches of one run: those that were tuned, else those of the recipe."""
        return int(self.done[BATCH].value["batch"]) if BATCH in self.done else self.plan.recipe.first_batch

    @property
    def overlap(self) -> float:
        """Of the windows: that was tuned, or that of the recipe, else the spec's."""
        if TILING in self.done:
            return float(self.done[TILING].value["overlap"])
        return self.plan.inputs.source.loaded.spec.overlap

    @property
    def tiled(self) -> bool:
        """Whether the chosen file has other windows than the checkpoint."""
        return TILING in self.done and self.overlap != self.done[TILING].value["first"]

    @property
    def tilings(self) -> tuple[TilingOutcome, ...]:
        """The windows that were tried beside the checkpoint's."""
        found = self.done[TILING].value["alternatives"] if TILING in self.done else ()
        return tuple(map(TilingOutcome.from_json, found))

    def lost(self, outcomes: Sequence[CandidateOutcome]) -> list[RejectedCandidate]:
        """For the report: the candidates that are not the chosen one, and the windows that it does not have."""
        found = [
            RejectedCandidate(one.plan.name, "; ".join(one.reasons) or one.verdict)
            for one in outcomes
            if one.verdict != CHOSEN
        ]
        windows = [one for one in self.tilings if one.outcome != KEPT]
        return found + [RejectedCandidate(one.title, f"{one.outcome}: {one.reason}", one.values) for one in windows]

    def chosen(self) -> CandidatePlan | None:
        """The candidate that is chosen, as far as is known; None without one."""
        return next((one.plan for one in self.outcomes() if one.verdict == CHOSEN), None)

    def rewrites(self, chosen: CandidatePlan) -> tuple[str, ...]:
        """Those that a file was compiled with; none of what is not compiled."""
        tuned = tuple(self.done[chosen.name].value.get("tuning", {}).get("rewrites", ()))
        return (tuned or self.plan.recipe.rewrites) if chosen.compiler else ()

    def outcomes(self) -> tuple[CandidateOutcome, ...]:
        """Of every candidate; the chosen one with the figures of the batch and of the windows that were taken."""
        outcomes = self._first_outcomes()
        if self.batch != self.plan.recipe.first_batch:
            outcomes = tuple(self._with_batch(one) if one.verdict == CHOSEN else one for one in outcomes)
        if not self.tiled and (TILING not in self.done or self.done[TILING].value["holds"]):
            return outcomes
        return tuple(self._with_tiling(one) if one.verdict == CHOSEN else one for one in outcomes)

    def _with_tiling(self, one: CandidateOutcome) -> CandidateOutcome:
        """With the figures of its windows; windows that the recipe names and that do not hold end it."""
        value = self.done[TILING].value
        judged = outcome_of(one.plan, value["gate"], (), None)
        one = replace(
            one, min_dice=judged.min_dice, true_dice_share=judged.true_dice_share, min_sqnr_db=judged.min_sqnr_db
        )
        if not self.tiled:
            return replace(one, verdict="fails", reasons=(self.tilings[0].text,))
        taken = next(each for each in self.tilings if each.outcome == KEPT)
        why = (
            f"windows that overlap by {taken.overlap:g}, not by {value['first']:g}: {taken.windows} for the judged "
            f"scans, not {value['windows']}, {taken.ratio:.2f} times fewer runs"
        )
        return replace(one, reasons=(*one.reasons, why))

    def _with_batch(self, one: CandidateOutcome) -> CandidateOutcome:
        value, deadline_ms = self.done[BATCH].value, self.plan.recipe.deadline_ms
        found = outcome_of(one.plan, value["gate"], value["rows"], deadline_ms)
        taken = next(each for each in value["alternatives"] if each["batch"] == self.batch)
        why = (
            f"{self.batch} patches per run: {taken['ratio']:.2f} times as fast for the judged scans as one; its times "
            "are of such runs, and so are the checkpoint's beside them"
        )
        return replace(found, verdict=CHOSEN, reasons=(*one.reasons, why))

    def _first_outcomes(self) -> tuple[CandidateOutcome, ...]:
        timing = self.done[MEASURE].value if MEASURE in self.done else {}
        gates = [
            row for stage in self.plan.stages if stage.kind == "gate" for row in self.done[stage.name].value["rows"]
        ]
        values = StageValues(
            made={one.name: self.done[one.name].value for one in self.plan.made},
            gates=gates,
            timed=timing.get("rows", ()),
            not_timed=timing.get("reason", ""),
            deadline_ms=self.plan.recipe.deadline_ms,
        )
        return decide(self.plan.candidates, values)

    def decided(self) -> tuple[tuple[CandidateOutcome, ...], DeployRecipe, int]:
        """The candidates, the pinned recipe, and the threads to run the chosen file with."""
        outcomes, recipe = self.outcomes(), self.plan.recipe
        threads = recipe.run_threads
        if THREADS in self.done:
            threads = int(self.done[THREADS].value["threads"])
        chosen = next((one for one in outcomes if one.verdict == CHOSEN), None)
        if chosen is None:
            return outcomes, recipe, threads
        pinned = replace(
            recipe,
            candidates=(chosen.plan.name,),
            rewrites=self.rewrites(chosen.plan),
            batch=self.batch,
            overlap=self.overlap if TILING in self.done else recipe.overlap,
            run_threads=threads,
            inputs=dict(self.plan.hashes),
        )
        return outcomes, pinned, threads

    def stands(self, name: str) -> bool:
        """Whether a candidate could be made."""
        return not self.done[name].value.get("failure")

    def not_run(self, one: CandidatePlan) -> bool:
        """Whether it was made and could not be run on this host."""
        return str(self.done[one.name].value.get("verified", "")).startswith("not run")

    def path(self, name: str) -> Path:
        """The file of a candidate, with the first batch."""
        return self.done[name].folder / name

    def released(self, one: CandidatePlan) -> Path:
        """The file with the batch that was taken, and the chosen one with its windows."""
        if self.tiled and one == self.chosen():
            return self.done[TILING].folder / one.name
        if self.batch == self.plan.recipe.first_batch:
            return self.path(one.name)
        return self.done[f"batch-{self.batch}"].folder / one.name

    def of_batches(self, chosen: CandidatePlan) -> dict[int, tuple[Path, str]]:
        """Batch -> the chosen file with it, and why it could not be made; the first batch first."""
        found = {self.plan.recipe.first_batch: (self.path(chosen.name), "")}
        for stage in self.plan.stages:
            if stage.batch:
                outcome = self.done[stage.name]
                found[stage.batch] = outcome.folder / chosen.name, str(outcome.value["failure"])
        return found

    def folders(self, chosen: CandidatePlan, report: Path) -> StageFolders:
        """Where the gate and the measurement of the chosen file were kept, and where its report goes."""
        if self.tiled:
            judged = tiled_name(Path(chosen.name), self.overlap)
            timed = self.done[BATCH if self.batch != self.plan.recipe.first_batch else MEASURE].folder
            return StageFolders(self.done[TILING].folder, timed, report, judged)
        if self.batch != self.plan.recipe.first_batch:
            return StageFolders(self.done[BATCH].folder, self.done[BATCH].folder, report)
        gate = next(one.name for one in self.plan.stages if one.kind == "gate" and chosen in one.candidates)
        return StageFolders(self.done[gate].folder, self.done[MEASURE].folder, report)
