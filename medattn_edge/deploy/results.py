"""Results: what the stages of a deployment have given until now, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from medattn_edge.deploy.batches import outcome_of
from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.choice import CHOSEN, CandidateOutcome, StageValues, decide
from medattn_edge.deploy.evidence_stage import StageFolders
from medattn_edge.deploy.plan import BATCH, MEASURE, THREADS, DeployPlan
from medattn_edge.deploy.recipe import DeployRecipe
from medattn_edge.deploy.work_folder import StageOutcome


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

    def chosen(self) -> CandidatePlan | None:
        """The candidate that is chosen, as far as is known; None without one."""
        return next((one.plan for one in self.outcomes() if one.verdict == CHOSEN), None)

    def rewrites(self, chosen: CandidatePlan) -> tuple[str, ...]:
        """Those that a file was compiled with; none of what is not compiled."""
        tuned = tuple(self.done[chosen.name].value.get("tuning", {}).get("rewrites", ()))
        return (tuned or self.plan.recipe.rewrites) if chosen.compiler else ()

    def outcomes(self) -> tuple[CandidateOutcome, ...]:
        """Of every candidate; the chosen one with the figures of the batch that was taken."""
        outcomes = self._first_outcomes()
        if self.batch == self.plan.recipe.first_batch:
            return outcomes
        return tuple(self._with_batch(one) if one.verdict == CHOSEN else one for one in outcomes)

    def _with_batch(self, one: CandidateOutcome) -> CandidateOutcome:
        value, deadline_ms = self.done[BATCH].value, self.plan.recipe.deadline_ms
        found = outcome_of(one.plan, value["gate"], value["rows"], deadline_ms)
        taken = next(each for each in value["alternatives"] if each["batch"] == self.batch)
        why = f"{self.batch} patches per run: {taken['ratio']:.2f} times as fast for the judged scans as one"
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
        """The file with the batch that was taken."""
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
        if self.batch != self.plan.recipe.first_batch:
            return StageFolders(self.done[BATCH].folder, self.done[BATCH].folder, report)
        gate = next(one.name for one in self.plan.stages if one.kind == "gate" and chosen in one.candidates)
        return StageFolders(self.done[gate].folder, self.done[MEASURE].folder, report)
