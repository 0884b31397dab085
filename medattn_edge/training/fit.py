"""Fit: epochs of augmented patches, judged on held-out slices, the best checkpoint kept, interruptible."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import torch

from medattn_edge.backends.session import Options
from medattn_edge.backends.torch.session import prepare_torch
from medattn_edge.errors import HostError, OutputError, ScanError, UsageError, quoted
from medattn_edge.inference import prepare
from medattn_edge.models import checkpoint
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec
from medattn_edge.spec.orientation import patient_axes
from medattn_edge.training.amounts import check_learnable, label_amounts, without_overlap
from medattn_edge.training.augment import Plane, augment
from medattn_edge.training.cases import Case
from medattn_edge.training.evaluate import Score, evaluate
from medattn_edge.training.losses import training_loss
from medattn_edge.training.resume import (
    Progressed,
    extended,
    is_finished,
    read_resume,
    resume_path,
    weights_sha256,
    write_resume,
)
from medattn_edge.training.sampling import Sampler, is_padded, training_stretches
from medattn_edge.training.schedule import Pace, learning_rate
from medattn_edge.training.settings import UNWATCHED, Epoch, Output, Result, TrainingSettings, Watch
from medattn_edge.training.split import Part, describe, split_cases

BETAS = (0.9, 0.99)  # Adam, as Sinha & Dolz 2020 (arXiv:1906.02849)


def fit(
    network: SegmentationNetwork,
    cases: Sequence[Case],
    spec: ModelSpec,
    settings: TrainingSettings,
    output: Output,
    watch: Watch = UNWATCHED,
) -> Result:
    """Train a network, whose weights are the first ones, and write its best state by mean held-out Dice.

    After every epoch `output.path`.resume is replaced, so that an interruption (KeyboardInterrupt, or the power) costs
    less than an epoch; on a CPU, resuming gives bit for bit the weights of an uninterrupted training on the same host
    with the same number of threads. It stays when the training is complete, so that --resume with more epochs can
    extend it: not to what these would have given at once, see `resume.extended`. All scans are held in memory.

    Args:
        network: The network of `spec`; moved to the device of the settings.
        cases: The scans with their labels.
        spec: What the network expects, written into the checkpoint.
        settings: How to train.
        output: Where the checkpoint goes.
        watch: Called after every step and every epoch.

    Raises:
        UsageError: The network is a sigmoid one, the training diverges (the best checkpoint stays), a batch is too
            small for BatchNorm, or a resume file is missing, of other settings, or in the way.
        ScanError: The scans cannot be split, a label is in none of them, or no training slice, or none of a label, is
            left at the network's spacing.
        OutputError: The folder to write to does not exist.
        HostError: The memory is not enough for one step, or the device is not there.
    """
    if spec.overlapping:
        raise UsageError(
            f"a sigmoid network with the regions {', '.join(spec.labels)}",
            expected="labels that exclude each other: cases have one label per voxel, and the loss is a softmax's",
            hint="train it with your own code, and export its checkpoint with --activation sigmoid",
        )
    _check_every_label(cases, spec)
    parts = split_cases(cases, settings.holdout, settings.blocks, spec.orientation)
    run = _Run(network, cases, parts, spec, settings, output)
    watch.labels(run.amounts)
    if run.padding:
        watch.note(_about_padding(run.padding, cases, spec, settings))
    progressed = run.begin(watch)
    for epoch in range(progressed.epochs, settings.epochs):
        progressed = run.epoch(epoch, progressed, watch)
    return run.finish(progressed)


class _Run:
    """One training: what stays the same from epoch to epoch, and the network that does not."""

    def __init__(
        self,
        network: SegmentationNetwork,
        cases: Sequence[Case],
        parts: Sequence[Part],
        spec: ModelSpec,
        settings: TrainingSettings,
        output: Output,
    ) -> None:
        self.network, self.cases, self.parts, self.spec = network, cases, parts, spec
        self.settings, self.output, self.resume = settings, output, resume_path(output.path)
        self.amounts = label_amounts(cases, parts, spec)
        prepare_torch(Options(settings.device))
        network.to(settings.device)
        self.optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=BETAS)
        pairs = zip(cases, parts, strict=True)
        stretches = list(chain.from_iterable(training_stretches(case, part, spec) for case, part in pairs))
        if not stretches:
            raise ScanError(
                "no training slice is left at the network's spacing",
                expected="neighbouring training slices",
                hint="fewer and thicker blocks, for example --blocks 5, or --spacing nearer to the scans'",
            )
        self.padding = max(stretch.padding for stretch in stretches)
        self.sampler = Sampler(stretches, spec.patch)
        check_learnable(self.sampler.labels, spec)
        self.epoch_seconds: list[float] = []
        self.plane = _plane(spec)
        self.identity = {
            **{f"spec.{key}": value for key, value in spec.to_json().items()},
            **{f"settings.{key}": value for key, value in asdict(settings).items()},
            "scans": [f"{case.name} {case.sha256[:16]}" for case in cases],
            "first weights": weights_sha256(network.state_dict())[:16],
        }

    def begin(self, watch: Watch) -> Progressed:
        """Nothing done yet, or what the resume file says."""
        self.pace = Pace(self.spec, self.settings, watch.note)
        if not self.resume.parent.is_dir():  # now, not after an epoch
            raise OutputError(
                f"the folder {self.resume.parent} does not exist",
                expected="an existing folder to write to",
                hint=f"mkdir -p {quoted(self.resume.parent)}",
            )
        if self.output.resume:
            progressed, planned = read_resume(self.resume, self.network, self.optimiser, self.identity)
            return extended(progressed, planned, self.settings, watch.note)
        if self.resume.exists() and not is_finished(self.resume):
            raise UsageError(
                f"{self.resume.name} is there, of a training that was interrupted",
                expected="--resume to go on with it",
                hint=f"the same command with --resume, or rm {quoted(self.resume)} to start afresh",
            )
        return Progressed(0, {"seconds": 0.0})

    def epoch(self, epoch: int, before: Progressed, watch: Watch) -> Progressed:
        """One epoch, its judgement, and both files."""
        started = time.perf_counter()
        loss = self._train(epoch, watch)
        score = self._evaluate(everything=False)
        best = score.mean > before.facts.get("mean_held_out_dice", -1.0)
        self.epoch_seconds.append(time.perf_counter() - started)
        facts = {**before.facts, "seconds": before.facts["seconds"] + self.epoch_seconds[-1]}
        if best:
            facts |= {"best_epoch": epoch + 1, "mean_held_out_dice": score.mean}
            self._save(facts, score)
        progressed = Progressed(epoch + 1, facts)
        # The checkpoint first: if the power fails between the two, the epoch is repeated and finds itself the best.
        write_resume(self.resume, self.network, self.optimiser, progressed, self.identity)
        left = statistics.mean(self.epoch_seconds) * (self.settings.epochs - epoch - 1)
        watch.epoch(Epoch(epoch + 1, loss, score, best, self.epoch_seconds[-1], left))
        return progressed

    def finish(self, progressed: Progressed) -> Result:
        """The best checkpoint again, with the Dice of all scans and the whole time in its notes."""
        with torch.random.fork_rng(devices=[]):  # building a network draws weights, even if only to overwrite them
            self.network.load_state_dict(checkpoint.load(self.output.path).network.state_dict())
        score = self._evaluate(everything=True)
        notes = self._save(progressed.facts, score)
        return Result(self.output.path, notes, score)

    def _evaluate(self, *, everything: bool) -> Score:
        device = self.settings.device
        return evaluate(self.network, self.spec, self.cases, self.parts, everything=everything, device=device)

    def _train(self, epoch: int, watch: Watch) -> float:
        """The epoch's steps; returns their mean loss."""
        settings = self.settings
        rng = np.random.default_rng((settings.seed, epoch))
        total, losses = settings.epochs * settings.steps, []
        self.network.train()
        for step in range(epoch * settings.steps, (epoch + 1) * settings.steps):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(step, total, settings.learning_rate)
            if step >= total * (1 - settings.frozen_norms):
                _freeze_norms(self.network)
            started = time.perf_counter()
            images, labels = self.sampler.batch(rng, settings.batch)
            losses.append(self._step(*augment(torch.from_numpy(images), torch.from_numpy(labels), rng, self.plane)))
            if not math.isfinite(losses[-1]):
                # Going on from the last epoch would diverge at the same step again.
                self.resume.unlink(missing_ok=True)
                raise UsageError(
                    f"the loss is {losses[-1]} in step {step + 1} of {total}: the training diverged",
                    expected=f"a finite loss; the best checkpoint of the {epoch} epochs before, if any, stays",
                    hint=f"--learning-rate {settings.learning_rate / 10:g}",
                )
            watch.progress(step + 1, total)
            self.pace.step(time.perf_counter() - started, total - step - 1)
        return sum(losses) / len(losses)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        try:
            self.optimiser.zero_grad(set_to_none=True)
            images, labels = images.to(self.settings.device), labels.to(self.settings.device)
            loss = training_loss(self.network.training_outputs(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        except ValueError as error:  # BatchNorm's, about one value per channel
            raise UsageError(
                f"a batch of {len(images)} patches of {'x'.join(map(str, self.spec.patch))} is too small: {error}",
                expected="more than one value per channel at the network's bottom",
                hint=f"--batch {2 * len(images)}, or a larger --patch",
            ) from error
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise HostError(
                f"not enough memory for {len(images)} patches of {'x'.join(map(str, self.spec.patch))}",
                expected="room for one step",
                hint=f"--batch {max(1, len(images) // 2)}, or a smaller --patch",
            ) from error
        return float(loss.detach())

    def _save(self, facts: Mapping[str, Any], score: Score) -> dict[str, Any]:
        notes = {
            **self.output.notes,
            "subjects": len(self.cases),
            "split": describe(self.cases, self.parts),
            "settings": asdict(self.settings),
            **facts,
            "held_out_dice": score.held_out,
            "training_dice": score.training,
            "labels": [amount.to_json() for amount in self.amounts],
            "labels_without_overlap": list(without_overlap(score)),
            "threads": torch.get_num_threads(),
        }
        checkpoint.save(self.output.path, self.network, self.spec, notes)
        return notes


def _about_padding(padding: int, cases: Sequence[Case], spec: ModelSpec, settings: TrainingSettings) -> str:
    """A network learns the padding for the organ where only the padded patches hold it; no window of a scan has it."""
    fitting = _blocks_without_padding(cases, spec, settings)
    advice = f"--blocks {fitting}" if fitting else f"a --patch of {max(1, spec.patch[0] - padding)} slices"
    return (
        f"some training slices lie in stretches thinner than a patch: up to {padding} of its {spec.patch[0]} slices "
        "are background there, as in no window of a scan, and what is learnt there may not hold elsewhere; "
        f"better: {advice}"
    )


def _blocks_without_padding(cases: Sequence[Case], spec: ModelSpec, settings: TrainingSettings) -> int | None:
    """The number of blocks nearest to the one asked for in which every stretch holds a patch; None: there is none."""
    prepared = [prepare(case.scan, spec) for case in cases]
    for blocks in sorted(range(3, 4 * settings.blocks), key=lambda count: abs(count - settings.blocks)):
        try:
            parts = split_cases(cases, settings.holdout, blocks, spec.orientation)
        except ScanError:
            continue
        if not any(is_padded(scan, part, spec) for scan, part in zip(prepared, parts, strict=True)):
            return blocks
    return None


def _check_every_label(cases: Sequence[Case], spec: ModelSpec) -> None:
    """Raise ScanError for a label of the network that no case has: nobody would notice that it was never learnt."""
    found = {int(value) for case in cases for value in np.unique(case.labels.voxels)}
    if absent := [name for value, name in enumerate(spec.labels) if value and value not in found]:
        raise ScanError(
            f"no voxel of the {len(cases)} scan(s) is {' or '.join(absent)}",
            expected=f"every label of the network: {', '.join(spec.labels[1:])}",
            hint="scans with it, or a network without it",
        )


def _freeze_norms(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def _plane(spec: ModelSpec) -> Plane:
    """Where patches are turned: the axial plane, or of a 2-D network that of its slices, whichever that is."""
    first, second = "H", "W"
    if spec.dims == 3:
        letters = dict(zip(patient_axes(spec.orientation), "WHD", strict=True))
        first, second = letters[1], letters[0]  # back-front and left-right, as H and W are in LPS
    axes = (spec.axes.index(first), spec.axes.index(second))
    if spec.spacing is None:
        return Plane(axes)
    step = dict(zip("DHW"[3 - spec.dims :], spec.spacing, strict=True))
    return Plane(axes, (step[first], step[second]))
