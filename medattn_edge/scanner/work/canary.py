"""The canary: a fixed input through the very session that will segment; its answer must be the one that is known.

The input is noise, and a node has no reference beside it: the gate that a file carries, a Dice with the reference on
scans, cannot be measured here. What can be held is that its manifest's own figures reach that gate, that the logits are
finite, and that the labels are those of the first time. `gate_note` says which.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.artifact import Manifest
from medattn_edge.backends.session import Session
from medattn_edge.errors import BackendError, quoted
from medattn_edge.file_gate import gate_text
from medattn_edge.host import hardware
from medattn_edge.labels import Meaning
from medattn_edge.scanner.store.disk import locked, write_durably
from medattn_edge.scanner.store.layout import Layout

_SEED: Final = 20181109


class CanaryError(BackendError):
    """This host does not compute what it should.

    Attributes:
        reason: a code of WORKER_REASONS.
    """

    def __init__(self, reason: str, found: str, *, expected: str, hint: str) -> None:
        self.reason = reason
        super().__init__(found, expected=expected, hint=hint)


def check_gate(manifest: Manifest) -> None:
    """Hold the figures that a manifest has of the file's making to the gate that it carries.

    Those of a compiled file are against the file that it was compiled from, and say nothing of this gate.

    Raises CanaryError when a figure does not reach the gate, or is not there.
    """
    if manifest.gate is None or manifest.target:
        return
    thresholds = Thresholds(**manifest.gate.limits)
    agreements = [_agreement(case) for case in _figures(manifest)]
    failures = [said for one in agreements if one is not None for said in thresholds.failures(one)]
    if not agreements or None in agreements:
        failures.append("a figure that it asks for is missing")
    if failures:
        raise CanaryError(
            "gate_not_held",
            f"the manifest's own figures do not hold the gate that it carries: {'; '.join(failures)}",
            expected=thresholds.text,
            hint="medattn-edge compare CHECKPOINT ARTIFACT SCAN; make the file again: medattn-edge calibrate",
        )


def gate_note(manifest: Manifest) -> str:
    """What a node holds of the gate of a file that passed `check_gate`, and what it cannot, for people."""
    canary = "the canary is noise, which holds finite logits and the labels of the first time, and no Dice"
    if manifest.gate is None:
        return f"{manifest.precision}, and carries no gate; {canary}"
    text = gate_text(manifest.gate.limits)
    if manifest.target:
        return f"gate: {text}; not held here, for a compiled file has no figures of it: compare holds it; {canary}"
    reached = min(value for case in _figures(manifest) for value in case["dice"].values())
    return f"gate: {text}; held by the manifest's figures, Dice with the reference {reached:.6f}; {canary}"


def _figures(manifest: Manifest) -> list[Mapping[str, Any]]:
    """The cases that a Dice with the reference was asked of: those on real input."""
    return [case for case in manifest.agreement if "min_dice" in (case.get("thresholds") or {})]


def _agreement(case: Mapping[str, Any]) -> Agreement | None:
    """What a case says of Dice; None where a figure is missing."""
    found = [case.get(name) for name in ("dice", "reference_dice", "candidate_dice")]
    dice, before, after = (one if isinstance(one, Mapping) else None for one in found)
    labelled = "min_true_dice_share" in case["thresholds"]
    if not dice or (labelled and (not before or not after or set(before) != set(after))):
        return None
    figures = [value for one in (dice, before, after) if one is not None for value in one.values()]
    if not all(isinstance(value, int | float) for value in figures):
        return None
    return Agreement(0.0, 0.0, 1.0, dice, {}, 0, 0, reference_dice=before, candidate_dice=after)


def run_canary(session: Session, artifact_sha256: str, root: Path) -> str:
    """Run the canary; the hash of its labels. The first of an artifact, runtime and CPU is written down in the root.

    Raises CanaryError for logits that are not finite, and for labels that are not the known ones: this host does not
    compute what it computed before. OutputError when it cannot be written down.
    """
    found, key, path = labels_hash(session), _key(session, artifact_sha256), Layout(root).canaries
    # The workers of several devices start at the same time, and none may lose what another has written down.
    with locked(Layout(root).canary_lock, wait=True):
        known = _known_answers(path)
        if key not in known:
            write_durably(path, (json.dumps({**known, key: found}, indent=1, sort_keys=True) + "\n").encode())
    if known.get(key, found) != found:
        raise CanaryError(
            "canary_changed",
            f"the canary's labels are not those that {path} has for this artifact, runtime and CPU",
            expected="the same answer as before",
            hint=f"compare the artifact with its checkpoint; when the answer is right, remove {quoted(path)}",
        )
    return found


def labels_hash(session: Session) -> str:
    """The sha256 of the labels of a fixed noise. Raises CanaryError for logits that are not finite."""
    spec = session.spec
    shape = (session.batch or 1, spec.in_channels, *spec.patch)
    patches = np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)
    logits = session.run(patches)
    if not np.isfinite(logits).all():
        raise CanaryError(
            "canary_not_finite",
            "the canary's logits are not finite",
            expected="numbers",
            hint="compare the artifact with its checkpoint",
        )
    meaning = Meaning.of(spec)
    labels = np.ascontiguousarray([meaning.labels_of(one) for one in logits])
    kind = np.uint32 if meaning.overlapping else np.uint16  # one bit for each region, or a number
    return hashlib.sha256(labels.astype(kind).tobytes()).hexdigest()


def _key(session: Session, artifact_sha256: str) -> str:
    """Everything that may change the last bits of a logit, and so a label: another key has its own answer."""
    facts = session.facts
    runtime = {name: facts[name] for name in sorted(facts) if name in (facts.get("backend"), "backend", "device")}
    host = hardware.cpu()
    runtime_facts = json.dumps(
        {**runtime, "cpu": host.model, "isa": hardware.isa_class(host), "threads": facts.get("threads")}
    )
    return hashlib.sha256(f"{artifact_sha256}\0{runtime_facts}".encode()).hexdigest()


def _known_answers(path: Path) -> dict[str, str]:
    damaged = CanaryError(
        "canary_damaged", f"{path} is damaged", expected="what a node wrote", hint=f"rm {quoted(path)}"
    )
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise damaged from error
    if not isinstance(answers, dict) or not all(isinstance(value, str) for value in answers.values()):
        raise damaged
    return answers
