"""Deployment: the stages of a plan in order, each once, and the release in the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.artifact import tool_versions
from medattn_edge.atomic import replacing
from medattn_edge.deploy.batches import choose_batch, make_batch, too_large, with_batch
from medattn_edge.deploy.candidates import FP32, CandidatePlan
from medattn_edge.deploy.choice import CHOSEN, CandidateOutcome
from medattn_edge.deploy.evidence_stage import check_report, write_evidence
from medattn_edge.deploy.judging import gate, look_for_foreground, measure
from medattn_edge.deploy.making import FileMaker, tuned_threads
from medattn_edge.deploy.plan import FOREGROUND, MEASURE, PLAN, THREADS, TILING, DeployPlan, StagePlan
from medattn_edge.deploy.recipe import RECIPE, DeployRecipe
from medattn_edge.deploy.release_stage import CANDIDATES, OUT, check_output, put, with_ancestors, write_documents
from medattn_edge.deploy.results import StageResults
from medattn_edge.deploy.stage_clock import StageClock
from medattn_edge.deploy.tilings import TilingSource, choose_tiling
from medattn_edge.deploy.work_folder import StageOutcome, WorkFolder, key_of
from medattn_edge.evidence import RejectedCandidate
from medattn_edge.host import hardware
from medattn_edge.inference.real_patches import real_patches
from medattn_edge.process.memory import available_mb
from medattn_edge.release import TrustedKey, VerifiedRelease, sign_release, write_release

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
_FORMAT: Final = 2  # of what the stages keep in their folders
_OF_ALL: Final = ("target", "batch", "opset", "patch", "network", "weights", "settings")
_GATE: Final = ("min_dice", "min_true_dice_share", "max_true_dice_share", "judge_labels", "label_values", "threads")
_INT8: Final = ("method", "samples", "held_out_samples", "max_trials", "seed", "isa")
_TIMED: Final = ("duration_s", "measured_patches", "deadline_ms", "threads", "min_dice")
# The fields of a recipe that a stage of a kind depends on, beside those of all.
_FIELDS: Final = {
    "export": ("min_dice",),
    "gate": _GATE,
    "look": ("threads",),
    "int8": (*_GATE, *_INT8),
    "compile": ("rewrites", "compute_capabilities", "threads"),
    "tune": ("tune_duration_s", "threads"),
    "batch": (*_GATE, *_INT8, "rewrites"),
    "batches": (*_GATE, *_TIMED),
    MEASURE: _TIMED,
    TILING: (*_GATE, "overlap"),
    THREADS: ("tune_duration_s",),
}


@dataclass(frozen=True)
class Deployment:
    """What came of a plan.

    Attributes:
        plan: what was done.
        candidates: every one, with its figures and reasons.
        recipe: that makes the same release again; what was tuned and chosen is pinned in it.
        release: that was written; None when no candidate holds every threshold.
        work: the folder with what the stages made; it is gone when there is a release.
        threads: that the chosen file is to be run with, 0 for as many as there are.
    """

    plan: DeployPlan
    candidates: tuple[CandidateOutcome, ...]
    recipe: DeployRecipe
    release: VerifiedRelease | None
    work: Path
    threads: int = 0

    @property
    def chosen(self) -> CandidateOutcome | None:
        """The candidate that was chosen."""
        return next((one for one in self.candidates if one.verdict == CHOSEN), None)

    @property
    def overlap(self) -> float:
        """Of the windows that the chosen file covers a scan with."""
        own = self.plan.inputs.source.loaded.spec.overlap
        return own if self.recipe.overlap is None else self.recipe.overlap

    def to_json(self) -> dict[str, Any]:
        """The document of `deploy --json`."""
        return {
            "batch": self.recipe.first_batch,
            "overlap": self.overlap,
            "release": None if self.release is None else self.release.to_json(),
            "verdict": "pass" if self.release is not None else "fail",
            "chosen": None if self.chosen is None else self.chosen.plan.name,
            "threads": self.threads,
            "thresholds": {name: dict(limits) for name, limits in self.plan.thresholds.items()},
            "assumptions": list(self.plan.assumptions),
            "candidates": [one.to_json() for one in self.candidates],
            "work": None if self.release is not None else str(self.work),
        }


def deploy(
    plan: DeployPlan,
    output: Path,
    *,
    key: Ed25519PrivateKey | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Deployment:
    """Make, judge and time every candidate of a plan, and write the fastest that holds every threshold as a release.

    What a stage gave is kept in OUTPUT.deploy, beside the output, until the release is there: ended at any time, it
    goes on with the stage that it was at. Thresholds are written there before the first stage.

    Args:
        plan: what `plan_deployment` returned.
        output: a folder, or a .zip; nothing may be there.
        key: to sign with; None leaves the release unsigned.
        progress: called with what is going on, how much of it is done, and of how much.
        say: called with a line at every stage, with what is left, and with what people should know.

    Returns:
        The outcome of every candidate, and the release; without one when no candidate holds the thresholds: nothing
        is written then.

    Raises:
        UsageError: something is at `output`.
        ScanError: the network finds nothing to judge, or to calibrate on, in the scans.
        IntegrityError: a file changed meanwhile.
        AgreementError: the FP32 graph does not agree with the checkpoint, or the report's verdict is not pass.
        MissingDependency: a report is asked, and cannot be drawn here.
        OutputError: the disk is full; what was done stays.
        MedattnError: what else the stages raise.
    """
    output = Path(output)
    check_output(output)
    check_report(plan)
    run = _Run(plan, output, key, progress or (lambda what, done, of: None), _once(say or (lambda text: None)))
    with WorkFolder.beside(output).opened() as work:
        return run.through(work)


def _once(say: Say) -> Say:
    """Says the same line once: several stages have the same to say of one file."""
    said = set[str]()

    def new(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return new


@dataclass
class _Run:
    """One run through the stages.

    Attributes:
        plan: what is done.
        output: where the release goes.
        key: that signs it.
        progress: see `deploy`.
        say: see `deploy`.
        results: what the stages gave.
    """

    plan: DeployPlan
    output: Path
    key: Ed25519PrivateKey | None
    progress: Progress
    say: Say

    def __post_init__(self) -> None:
        self.results = StageResults(self.plan)

    @property
    def done(self) -> dict[str, StageOutcome]:
        """Stage -> what it gave."""
        return self.results.done

    def through(self, work: WorkFolder) -> Deployment:
        document = json.dumps(self.plan.to_json(), indent=2, allow_nan=False) + "\n"
        with replacing(work.path / PLAN) as file:
            file.write_text(document, encoding="utf-8")
        maker = FileMaker(self.plan, work.cache, self.progress)
        *stages, last = self.plan.stages
        clock = StageClock(self.plan.stages, self.say)
        for stage in stages:
            self._run(work, stage, clock, partial(self._stage, stage, maker))
        outcomes, recipe, threads = self.results.decided()
        if not any(one.verdict == CHOSEN for one in outcomes):
            return Deployment(self.plan, outcomes, recipe, None, work.path)
        self.plan.inputs.check_unchanged(dict(self.plan.hashes))
        self._run(work, last, clock, lambda folder: self._release(folder, outcomes, recipe, document, threads))
        release = put(self.done[last.name], self.output)
        work.remove()
        return Deployment(self.plan, outcomes, recipe, release, work.path, threads)

    def _run(
        self, work: WorkFolder, stage: StagePlan, clock: StageClock, run: Callable[[Path], Mapping[str, Any]]
    ) -> None:
        key = self._key(stage)
        outcome = work.outcome(stage.name, key)
        if outcome is None:
            clock.begin(stage)
            outcome = work.publish(stage.name, key, run, time.monotonic)
        clock.end(stage, outcome)
        self.done[stage.name] = outcome

    def _key(self, stage: StagePlan) -> str:
        """Of everything that the stage's result depends on."""
        recipe = self.plan.recipe
        named = (*_OF_ALL, *_FIELDS.get(stage.kind, ()))
        about: dict[str, Any] = {name: getattr(recipe, name) for name in named}
        if stage.kind == "release":
            about["recipe"] = recipe.to_toml()
            about["signer"] = None if self.key is None else TrustedKey.of("", self.key.public_key()).fingerprint
            about["created"] = os.environ.get("SOURCE_DATE_EPOCH")
        return key_of(
            {
                "stage": stage.name,
                "format": _FORMAT,
                "about": about,
                "candidates": [one.to_json() for one in stage.candidates],
                "inputs": dict(self.plan.hashes),
                "spec": self.plan.inputs.source.loaded.spec.to_json(),
                "tools": tool_versions(),
                "cpu": hardware.cpu().model,
                "needs": {name: self.done[name].digest for name in stage.needs},
            }
        )

    def _stage(self, stage: StagePlan, maker: FileMaker, folder: Path) -> Mapping[str, Any]:
        if stage.kind == "gate":
            files = {one.name: self.results.path(one.name) for one in stage.candidates if self.results.stands(one.name)}
            unjudged = all(one.is_engine and self.results.not_run(one) for one in stage.candidates)
            return {"rows": []} if not files or unjudged else gate(self.plan, files, folder, self.progress, self.say)
        if stage.name == FOREGROUND:
            return look_for_foreground(self.plan, self.results.path(FP32), self.progress)
        if stage.name == MEASURE:
            able = [one.plan for one in self.results.outcomes() if one.verdict in ("holds", CHOSEN)]
            able = [one for one in able if one.eligible and not self.results.not_run(one)]
            files = {one.name: self.results.path(one.name) for one in able}
            return measure(self.plan, files, able, folder, self.progress)
        if stage.kind in ("batch", "batches"):
            return self._batch_stage(stage, folder, maker.cache)
        if stage.name == TILING:
            return self._tiling(folder)
        if stage.name == THREADS:
            return self._threads(folder)
        (one,) = stage.candidates
        if one.parent and not self.results.stands(one.parent):
            return {"failure": f"{one.parent}, which it is made from, could not be made"}
        return maker.make(one, folder, self.results.path(one.parent) if one.parent else None)

    def _batch_stage(self, stage: StagePlan, folder: Path, cache: Path) -> Mapping[str, Any]:
        """Make the chosen file for another batch, or choose among all batches."""
        chosen, first = self.results.chosen(), self.plan.recipe.first_batch
        if chosen is None:
            return {"failure": "", "batch": first, "reason": "no candidate holds its gate"}
        if stage.batch:
            rows = self.done[MEASURE].value["rows"]
            if failure := too_large(rows, chosen, stage.batch, available_mb()):
                return {"failure": failure}
            planned = with_batch(self.plan, stage.batch, self.results.rewrites(chosen))
            chain = with_ancestors(chosen, self.plan.made)[::-1]
            return make_batch(planned, chain, folder, cache, self.progress)
        made = self.results.of_batches(chosen)
        plans = {batch: with_batch(self.plan, batch, self.results.rewrites(chosen)) for batch in made}
        return choose_batch(plans, chosen, made, folder, self.progress, self.say)

    def _tiling(self, folder: Path) -> Mapping[str, Any]:
        chosen = self.results.chosen()
        if chosen is None:
            own = self.plan.inputs.source.loaded.spec.overlap
            return {"overlap": own, "first": own, "holds": True, "alternatives": [], "reason": "no candidate holds"}
        source = TilingSource(self.results.released(chosen), self.results.batch, self.done[MEASURE].value["rows"])
        return choose_tiling(self.plan, chosen, source, folder, self.progress, self.say)

    def _threads(self, folder: Path) -> Mapping[str, Any]:
        chosen = self.results.chosen()
        if chosen is None:
            return {"threads": 0, "reason": "no candidate holds its gate", "alternatives": []}
        inputs = self.plan.inputs
        found = real_patches(inputs.source.loaded.spec, inputs.judged[:1], self.results.batch)
        samples = {f"scan {number}": patches for number, patches in enumerate(found.values(), 1)}
        duration_s = min(self.plan.recipe.tune_duration_s, 20.0)
        record = tuned_threads(self.results.released(chosen), samples, duration_s, folder)
        for path in folder.iterdir():  # what was compiled to be measured
            path.unlink()
        return record

    def _release(
        self, folder: Path, outcomes: Sequence[CandidateOutcome], recipe: DeployRecipe, plan: str, threads: int
    ) -> Mapping[str, Any]:
        """The release in a folder of the stage, signed, ready to be put in its place as a whole."""
        chosen = next(one.plan for one in outcomes if one.verdict == CHOSEN)
        candidates = {
            "schema": 1,
            "candidates": [one.to_json() for one in outcomes],
            "batch": self.results.batch,
            "overlap": self.results.overlap,
            "threads": threads,
            "stages": {name: dict(outcome.value) for name, outcome in self.done.items()},
        }
        text = json.dumps(candidates, indent=2, allow_nan=False) + "\n"
        report = self._report(folder, chosen, self.results.lost(outcomes))
        (folder / OUT).mkdir()
        target = folder / OUT / self.output.name
        release = write_release(
            [self.results.released(one) for one in with_ancestors(chosen, self.plan.made)],
            target,
            name=recipe.name,
            version=recipe.release_version,
            default=chosen.name,
            documents=write_documents(folder, {RECIPE: recipe.to_toml(), PLAN: plan, CANDIDATES: text}),
            report=report,
        )
        if self.key is not None:
            release = sign_release(target, self.key)
        return {"manifest_sha256": release.manifest_sha256}

    def _report(self, folder: Path, chosen: CandidatePlan, lost: Sequence[RejectedCandidate]) -> list[Path]:
        """The report, where one is asked and there is anything to report: what was not run has no evidence."""
        if not self.plan.recipe.report:
            self.say("no report, as asked")
            return []
        if self.results.not_run(chosen) or (self.plan.recipe.target != "cpu" and not chosen.is_engine):
            self.say(f"no report: {chosen.name} was not run on this host in what will run it")
            return []
        self.progress("gathering the evidence", 0, 1)
        folders = self.results.folders(chosen, folder)
        return write_evidence(self.plan, (chosen, self.results.released(chosen)), lost, folders, self.progress)
