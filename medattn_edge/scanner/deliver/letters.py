"""Dead letters: results that a destination never took, in a folder where a person finds them."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from medattn_edge.errors import OutputError
from medattn_edge.scanner.store.disk import make_folder, rename_durably, write_durably
from medattn_edge.scanner.store.records import Delivery, code
from medattn_edge.scanner.store.spool import Spool


def letter_of(spool: Spool, delivery: Delivery) -> Path:
    """Where the dead letter of a delivery lies, or would: dead/KEY-vN-DESTINATION."""
    return spool.root / "dead" / f"{delivery.key}-v{delivery.version}-{delivery.destination}"


def write_letter(spool: Spool, delivery: Delivery, reason: str, when: float) -> Path:
    """Keep copies of the files that are there, and in letter.json why they were not taken; whole or not at all.

    reason: a code. when: seconds since 1970. An earlier letter of the delivery is replaced. Raises OutputError.
    """
    target, folder = letter_of(spool, delivery), spool.result(delivery.key, delivery.version)
    draft = target.parent / f".{target.name}"  # removed at the next start if this is cut short
    files = [output.name for output in delivery.outputs if (folder / output.name).is_file()]
    told = {
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
        write_durably(draft / "letter.json", (json.dumps(told, indent=2) + "\n").encode())
        if target.exists():
            spool.remove(target)
        rename_durably(draft, target)
    except OSError as error:
        raise OutputError(
            f"cannot write the dead letter {target}: {error.strerror or error}",
            expected="free space and permission to write",
            hint=f"df -h '{spool.root}'",
        ) from error
    return target


def remove_letter(spool: Spool, delivery: Delivery) -> None:
    """The delivery went out after all. Raises OutputError."""
    target = letter_of(spool, delivery)
    try:
        if target.exists():
            spool.remove(target)
    except OSError as error:
        raise OutputError(
            f"cannot remove the dead letter {target}: {error.strerror or error}",
            expected="permission to write",
            hint=f"ls -ld '{target.parent}'",
        ) from error


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
