"""What deploy tells a person: the plan with its thresholds, every candidate with its figures, and the release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medattn_edge.errors import quoted

from . import console

if TYPE_CHECKING:
    from medattn_edge.deploy import CandidateOutcome, Deployment, DeployPlan


def tell_plan(plan: DeployPlan) -> None:
    """What would be done, and held to what."""
    from rich.table import Table

    table = Table("candidate", "precision", "tool", "parent", title=f"would be made for {plan.recipe.target}")
    for one in plan.made:
        table.add_row(one.name, one.precision, one.tool, one.parent or "checkpoint")
    console.show(table)
    for one in plan.candidates:
        if one.left_out:
            console.say(f"left out: {one.name}: {one.left_out}")
    tell_thresholds(plan)
    for number, stage in enumerate(plan.stages, 1):
        console.say(f"  {number}. {stage.title}")
    for text in plan.assumptions:
        console.say(f"assumed: {text}")


def tell_thresholds(plan: DeployPlan) -> None:
    """Every limit, as it was written down before the run."""
    for name, limits in plan.thresholds.items():
        values = ", ".join(f"{figure} {limit:g}" for figure, limit in limits.items())
        console.say(f"held to, {name}: {values}")


def tell_deployment(deployment: Deployment) -> None:
    """Every candidate, and the release or that there is none."""
    from rich.table import Table

    table = Table(title="candidates")
    table.caption = "speed: the checkpoint's time over this one's, median of paired runs (quartiles)"
    for heading in ("candidate", "verdict", "Dice with the reference", "true Dice share", "SQNR dB", "p50 ms", "speed"):
        text = heading in ("candidate", "verdict", "speed")
        table.add_column(heading, no_wrap=heading == "candidate", justify="left" if text else "right")
    for one in deployment.candidates:
        if one.verdict != "left out":
            table.add_row(one.plan.name, one.verdict, *_figures(one))
    console.show(table)
    for one in deployment.candidates:
        console.say(f"{one.plan.name}: {one.verdict}: {'; '.join(one.reasons) or 'holds'}")
        if one.not_run:
            console.say(f"{one.plan.name}: {one.not_run}")
    _tell_busy(deployment)
    tell_thresholds(deployment.plan)
    release = deployment.release
    if release is None:
        console.say("FAIL: no candidate holds every threshold; no release was written")
        console.note(
            f"what was made stays in {deployment.work}: the same command with other thresholds goes on from it; "
            f"rm -r {quoted(deployment.work)} removes it"
        )
        return
    signed = "signed" if release.signed else "not signed"
    console.say(f"{release.path}: release {release.title}, {signed}, {len(release.manifest.files)} files")
    console.say(f"release.json: SHA-256 {release.manifest_sha256}")
    if not release.signed:
        console.note(f"next: medattn-edge release sign {quoted(release.path)} --key KEY")
    chosen = deployment.chosen
    if chosen is not None and chosen.plan.is_engine:
        console.note(
            f"next, on the GPU: medattn-edge bench {quoted(release.path)} --reference CHECKPOINT --device cuda:0"
        )
        return
    if deployment.plan.recipe.target != "cpu":
        console.note(
            f"next, on the box: medattn-edge compile {quoted(release.path / release.manifest.default)} -o NAME.engine"
        )
        return
    console.say(
        f"{release.manifest.default}: {deployment.recipe.first_batch} patches per run, "
        f"windows overlap by {deployment.overlap:g}"
    )
    threads = f" --threads {deployment.threads}" if deployment.threads else ""
    console.note(f"next: medattn-edge infer {quoted(release.path)} SCAN -o labels.nii.gz{threads}")


def _tell_busy(deployment: Deployment) -> None:
    """Said where the choice rests on times of a busy host."""
    busy = [one for one in deployment.candidates if one.ratio_declined]
    if busy:
        console.say(
            f"the choice rests on times of a busy host: {busy[0].ratio_declined}. What holds its thresholds holds them "
            "all the same; another candidate may be faster\n"
            "  next: deploy again with another --work folder when nothing else runs here"
        )


def _figures(one: CandidateOutcome) -> tuple[str, ...]:
    share = "-" if one.true_dice_share is None else "{:.4f} to {:.4f}".format(*one.true_dice_share)
    speed = "declined" if one.ratio_declined else "-"
    if one.ratio_to_reference is not None and one.ratio_spread is not None:
        speed = f"{one.ratio_to_reference:.2f} ({one.ratio_spread[0]:.2f} - {one.ratio_spread[1]:.2f})"
    return (
        "-" if one.min_dice is None else f"{one.min_dice:.6f}",
        share,
        "-" if one.min_sqnr_db is None else f"{one.min_sqnr_db:.1f}",
        "-" if one.p50_ms is None else f"{one.p50_ms:.1f}",
        speed,
    )
