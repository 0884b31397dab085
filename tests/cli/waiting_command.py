"""The command line with one more command, which is halfway through a file when it says so, and stays there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from medattn_edge.atomic import replacing
from medattn_edge.cli import app, main


def wait(path: Path, json: bool = False) -> None:
    """Write half a file and wait; json is for the report of errors, which looks for it itself."""
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        sys.stderr.write("halfway\n")
        sys.stderr.flush()
        time.sleep(600)


if __name__ == "__main__":
    app.command("wait")(wait)
    main()
