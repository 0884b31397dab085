"""Resume: the file beside the checkpoint that lets an interrupted training go on as if nothing had happened.

It holds tensors, numbers and JSON text only, so that reading it runs no code. Random numbers need no place in it: every
epoch draws from its own generator, seeded by (seed, epoch).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.atomic import replacing
from medattn_edge.errors import CheckpointError, UsageError, quoted

_SCHEMA = 1


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
) -> Progressed:
    """Bring network and optimiser to where the file stands.

    Raises:
        UsageError: There is no file, or it is of another training; says what differs.
        CheckpointError: It cannot be read.
    """
    if not path.is_file():
        raise UsageError(
            f"there is no {path.name} to resume from",
            expected="a training that was interrupted after its first epoch",
            hint="the same command without --resume",
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        theirs, facts = json.loads(content["identity"]), json.loads(content["facts"])
    except Exception as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            expected="the resume file of this version of medattn-edge",
            hint=f"rm {quoted(path)}, then train again",
        ) from error
    ours = json.loads(json.dumps(identity))
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if different:
        changes = "; ".join(f"{key} was {_short(theirs.get(key))}, is {_short(ours.get(key))}" for key in different)
        raise UsageError(
            f"{path.name} is of another training: {changes}",
            expected="the same scans, network and settings",
            hint=f"the command that was interrupted with --resume, or rm {quoted(path)} to start afresh",
        )
    network.load_state_dict(content["network"])
    optimiser.load_state_dict(content["optimiser"])
    return Progressed(content["epochs"], facts)


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
