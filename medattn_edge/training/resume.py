"""Resume: the file beside the checkpoint that lets a training go on, after an interruption as if nothing had happened.

It holds tensors, numbers and JSON text only, so that reading it runs no code. Random numbers need no place in it: every
epoch draws from its own generator, seeded by (seed, epoch).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.atomic import replacing
from medattn_edge.errors import CheckpointError, UsageError, quoted
from medattn_edge.training.schedule import learning_rate
from medattn_edge.training.settings import TrainingSettings

_SCHEMA = 1
EPOCHS = "settings.epochs"  # the one part of the identity that may change


@dataclass(frozen=True)
class Progressed:
    """Where a training stands.

    Attributes:
        epochs: That are finished.
        facts: Of the best checkpoint so far, and the seconds spent; JSON values.
    """

    epochs: int
    facts: Mapping[str, Any]


def resume_path(checkpoint: Path) -> Path:
    """NAME.safetensors -> NAME.safetensors.resume."""
    return checkpoint.with_name(checkpoint.name + ".resume")


def write_resume(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    progressed: Progressed,
    identity: Mapping[str, Any],
) -> None:
    """Put the file in place, whole or not at all.

    Args:
        path: The file.
        network: Its weights are stored.
        optimiser: Its state is stored.
        progressed: Where the training stands.
        identity: What must be the same to go on; JSON values.
    """
    content = {
        "schema": _SCHEMA,
        "identity": json.dumps(identity, sort_keys=True),
        "epochs": progressed.epochs,
        "facts": json.dumps(dict(progressed.facts)),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)


def read_resume(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> tuple[Progressed, int]:
    """Bring network and optimiser to where the file stands; with the number of epochs that was asked for.

    Raises:
        UsageError: There is no file, or it is of another training; says what differs.
        CheckpointError: It cannot be read.
    """
    if not path.is_file():
        raise UsageError(
            f"there is no {path.name} to resume from",
            expected="a training that was interrupted after its first epoch, or is finished",
            hint="the same command without --resume",
        )
    content = _content(path)
    theirs = dict(content["identity"])
    planned = int(theirs.pop(EPOCHS))
    ours = {key: value for key, value in json.loads(json.dumps(identity)).items() if key != EPOCHS}
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if different:
        changes = "; ".join(f"{key} was {_short(theirs.get(key))}, is {_short(ours.get(key))}" for key in different)
        raise UsageError(
            f"{path.name} is of another training: {changes}",
            expected="the same scans, network and settings; only --epochs may differ",
            hint=f"the command of that training with --resume, or rm {quoted(path)} to start afresh",
        )
    network.load_state_dict(content["network"])
    optimiser.load_state_dict(content["optimiser"])
    return Progressed(content["epochs"], content["facts"]), planned


def is_finished(path: Path) -> bool:
    """Whether the file is of a training whose epochs are all done.

    Raises:
        CheckpointError: It cannot be read.
    """
    content = _content(path, mmap=True)
    return bool(content["epochs"] >= content["identity"][EPOCHS])


def extended(
    progressed: Progressed, planned: int, settings: TrainingSettings, note: Callable[[str], None]
) -> Progressed:
    """Where a training stands that goes on with another number of epochs than it was begun with.

    The learning rate goes on along the cosine of the new number: it had fallen along that of the old one. The weights
    are therefore not those of a training that was begun with the new number, and the checkpoint's notes say so.

    Args:
        progressed: What the resume file says.
        planned: The epochs that were asked for until now.
        settings: What is asked for now.
        note: Told what is not as it would have been.

    Raises:
        UsageError: More epochs are done than are asked for.
    """
    done, wanted = progressed.epochs, settings.epochs
    if wanted < done:
        raise UsageError(
            f"{done} epochs are done, and --epochs {wanted} asks for fewer",
            expected=f"--epochs {done} or more: an epoch cannot be taken back",
            hint=f"--epochs {2 * done} to go on, or --epochs {done} to end here with the best so far",
        )
    if done == wanted:
        note(f"all {done} epochs are done: nothing is trained; --epochs {2 * done} with --resume goes on")
    if planned == wanted:
        return progressed
    if done < wanted:
        rates = [
            learning_rate(done * settings.steps, n * settings.steps, settings.learning_rate) for n in (planned, wanted)
        ]
        frozen = "; the last steps with frozen norms are now counted from the new end" if settings.frozen_norms else ""
        note(
            f"{done} epochs were trained for an end at {planned}, which is now {wanted}: the learning rate goes on at "
            f"{rates[1]:.2g}, where it had come to {rates[0]:.2g}{frozen}. So this is not the training that {wanted} "
            "epochs from the start would be; the checkpoint's notes say after which epoch it was extended"
        )
    extensions = [*progressed.facts.get("extensions", []), {"after_epoch": done, "planned_epochs": planned}]
    return Progressed(done, {**progressed.facts, "extensions": extensions})


def _content(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """What the file holds: tensors, numbers, and `identity` and `facts` as JSON values.

    mmap: the tensors stay in the file until somebody looks at them.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        content |= {name: json.loads(content[name]) for name in ("identity", "facts")}
        if EPOCHS not in content["identity"] or not isinstance(content["epochs"], int):
            raise ValueError("it does not say of how many epochs it is")
    except Exception as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            expected="the resume file of this version of medattn-edge",
            hint=f"rm {quoted(path)}, then train again",
        ) from error
    return content


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a state_dict's names and values."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
