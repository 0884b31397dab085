"""Dead letters: results that a destination never took, in a folder where a person finds them."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

from medattn_edge.errors import OutputError, quoted
from medattn_edge.newer_python import UTC
from medattn_edge.scanner.store.disk import make_folder, remove_folder, rename_durably, write_durably
from medattn_edge.scanner.store.layout import LETTER, Layout
from medattn_edge.scanner.store.records import Delivery, code


class LetterError(OutputError):
    """A dead letter cannot be written."""


def letter_of(layout: Layout, delivery: Delivery) -> Path:
    """Where the dead letter of a delivery lies, or would."""
    return layout.dead_letter(delivery.key, delivery.version, delivery.destination)


def write_letter(layout: Layout, delivery: Delivery, reason: str, when: float) -> Path:
    """Keep copies of the files that are there, and in letter.json why they were not taken; whole or not at all.

    An earlier letter of the delivery is replaced.

    Args:
        layout: of the node.
        delivery: that is given up.
        reason: a code.
        when: seconds since 1970.

    Raises:
        LetterError: when it cannot be written.
    """
    target, folder = letter_of(layout, delivery), layout.result(delivery.key, delivery.version)
    draft = target.parent / f".{target.name}"  # removed at the next start if this is cut short
    files = [output.name for output in delivery.outputs if (folder / output.name).is_file()]
    letter = {
        "series": delivery.key,
        "version": delivery.version,
        "destination": delivery.destination,
        "reason": code(reason),
        "attempts": delivery.attempts + 1,
        "segmented": _time(folder.stat().st_mtime) if folder.is_dir() else None,
        "died": _time(when),
        "files": files,
        "next": f"medattn-edge node requeue {delivery.key}",
    }
    try:
        make_folder(target.parent)
        if draft.exists():
            shutil.rmtree(draft)
        make_folder(draft)
        for name in files:
            with (folder / name).open("rb") as file:
                write_durably(draft / name, file)
        write_durably(draft / LETTER, (json.dumps(letter, indent=2) + "\n").encode())
        if target.exists():
            remove_folder(target)
        rename_durably(draft, target)
    except OSError as error:
        raise LetterError(
            f"cannot write the dead letter {target}: {error.strerror or error}",
            expected="free space and permission to write",
            hint=f"df -h {quoted(layout.root)}",
        ) from error
    return target


def remove_letter(layout: Layout, delivery: Delivery) -> None:
    """Remove the dead letter, if there is one, of a delivery that was taken after all. Raises OutputError."""
    target = letter_of(layout, delivery)
    try:
        if target.exists():
            remove_folder(target)
    except OSError as error:
        raise OutputError(
            f"cannot remove the dead letter {target}: {error.strerror or error}",
            expected="permission to write",
            hint=f"ls -ld {quoted(target.parent)}",
        ) from error


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
