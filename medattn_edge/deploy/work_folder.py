"""Work folder: what the stages of a deployment have made, so that one that was ended goes on where it stood.

Every stage has a folder of its own, which appears whole or not at all, with `stage.json`: the key (everything that the
stage depends on), the value it gave and the hash of every file. A stage whose key is another, or one of whose files has
changed, is run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medattn_edge.artifact import sha256
from medattn_edge.atomic import FULL, check_room, locked, sync
from medattn_edge.errors import OutputError, UsageError, quoted

SUFFIX: Final = ".deploy"
CACHE: Final = "cache"
_RECORD: Final = "stage.json"
_LOCK: Final = "lock"
_OLD: Final = ".old"
_KIND: Final = "medattn-edge deploy"

Value = Mapping[str, Any]


@dataclass(frozen=True)
class StageOutcome:
    """What a stage gave.

    Attributes:
        folder: with its files.
        value: JSON values.
        digest: of its key, its value and its files: what the stages after it depend on.
        seconds: that it took, when it was run.
        reused: it had been run before, and was not run again.
    """

    folder: Path
    value: Value
    digest: str
    seconds: float = 0.0
    reused: bool = False


def key_of(about: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode()).hexdigest()


class WorkFolder:
    """The folder beside an output; `opened` makes it and holds it.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, output: Path) -> WorkFolder:
        """That of an output: OUTPUT.deploy."""
        output = Path(os.path.abspath(output))  # noqa: PTH100 - a link stays one: the folder lies beside it
        return cls(output.with_name(output.name + SUFFIX))

    @contextmanager
    def opened(self) -> Iterator[WorkFolder]:
        """Make it, and keep every other process out of it; half-written stages of before are removed.

        Raises:
            UsageError: another process works in it, or it is a folder of somebody else.
            OutputError: it cannot be written.
        """
        mark = self.path / _LOCK
        shutil.rmtree(
            self.path.with_name(f".{self.path.name}{_OLD}"), ignore_errors=True
        )  # of a `remove` that was killed
        if os.path.lexists(self.path) and not mark.is_file():
            raise UsageError(
                f"{self.path} is not a work folder of deploy",
                expected="nothing at this place, or the work folder of a deployment that was ended",
                hint=f"mv {quoted(self.path)} ANOTHER_NAME",
            )
        try:
            if not self.path.is_dir():
                _make(self.path)
        except OSError as error:
            raise _not_written(self.path, error) from error
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(mark))
            except BlockingIOError as error:
                raise UsageError(
                    f"another deployment works in {self.path}",
                    expected="one at a time for one output",
                    hint="wait for it, or -o ANOTHER",
                ) from error
            except OSError as error:
                raise _not_written(self.path, error) from error
            for rest in self.path.glob(".*.tmp"):
                shutil.rmtree(rest, ignore_errors=True)
            yield self

    def remove(self) -> None:
        """Remove all of it; call it inside `opened`, when the output is there."""
        gone = self.path.with_name(f".{self.path.name}{_OLD}")  # at once: half of it would be another deployment
        shutil.rmtree(gone, ignore_errors=True)
        self.path.rename(gone)
        sync(gone.parent)
        shutil.rmtree(gone)

    @property
    def cache(self) -> Path:
        """Where a stage may keep what it has measured while it runs."""
        return self.path / CACHE

    def outcome(self, name: str, key: str) -> StageOutcome | None:
        """What a stage gave when it was run with this key; None when it was not, or when a file has changed since."""
        folder = self.path / name
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            if record["kind"] != _KIND or record["key"] != key:
                return None
            if any(sha256(folder / file) != digest for file, digest in record["files"].items()):
                return None
            return StageOutcome(folder, record["value"], _digest(record), float(record["seconds"]), reused=True)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def publish(self, name: str, key: str, run: Callable[[Path], Value], clock: Callable[[], float]) -> StageOutcome:
        """Run a stage in a new folder, and let that appear under the stage's name.

        Args:
            name: of the stage.
            key: of everything that it depends on.
            run: takes the folder, writes files into it, and returns JSON values.
            clock: seconds.

        Raises:
            OutputError: the disk is full or cannot be written.
            What `run` raises; nothing is left of the stage then, and an older one stays.
        """
        start = clock()
        try:
            folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=self.path))
        except OSError as error:
            raise _not_written(self.path, error) from error
        try:
            value = run(folder)
            seconds = round(clock() - start, 3)
            files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
            record = {"kind": _KIND, "key": key, "value": dict(value), "seconds": seconds, "files": files}
            (folder / _RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            for path in (*folder.rglob("*"), folder):
                sync(path)
            target = self.path / name
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)
            sync(self.path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise _not_written(self.path, error) from error
        except Exception as error:
            if not isinstance(error, OutputError):
                check_room(folder / "room", self.path, error)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return StageOutcome(target, value, _digest(record), seconds)


def _digest(record: Mapping[str, Any]) -> str:
    return key_of({name: record[name] for name in ("key", "value", "files")})


def _make(path: Path) -> None:
    """The folder with its lock: both, or neither."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        (folder / _LOCK).touch()
        for one in (folder / _LOCK, folder):
            sync(one)
        folder.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}",
        expected="free space and permission to write; the stages that were done stay there",
        hint=f"df -h {quoted(path.parent)}, then the same command again: it goes on where it stood",
    )
