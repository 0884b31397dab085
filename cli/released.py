"""Releases where a command takes an artifact: opened whole, and said whose word that rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge.errors import UsageError, quoted

from . import console

if TYPE_CHECKING:
    from medattn_edge.release import TrustedKey, VerifiedRelease

Trusted = Annotated[
    Path | None,
    typer.Option(
        "--trusted",
        metavar="FILE",
        help="KEY.pub, or several in one file: a release must be signed by one of them.",
    ),
]


def keys_of(trusted: Path | None) -> tuple[TrustedKey, ...]:
    """The keys of --trusted; raises UsageError for what is none."""
    from medattn_edge.release import trusted_keys

    return () if trusted is None else trusted_keys(trusted)


@dataclass(frozen=True)
class Opened:
    """What a command works with.

    Attributes:
        files: in the place of every release its artifact; other paths as they were given.
        typed: what was given for each.
        others: for each, SHA-256 -> what to type for another artifact of its release; empty for what is in none.
    """

    files: list[Path]
    typed: list[Path]
    others: list[dict[str, str]] = field(default_factory=list)

    def named(self, document: Any) -> Any:
        """A document of JSON values with what was typed in the place of private copies, which nobody finds again."""
        if isinstance(document, dict):
            return {key: self.named(value) for key, value in document.items()}
        if isinstance(document, list | tuple):
            return [self.named(value) for value in document]
        if isinstance(document, str):
            for file, typed in zip(self.files, self.typed, strict=True):
                document = document.replace(str(file), str(typed)) if file != typed else document
        return document


@contextmanager
def opened(paths: Sequence[Path], trusted: Path | None) -> Iterator[Opened]:
    """The same paths, with a private copy of the artifact in the place of every release.

    RELEASE#NAME is another artifact than the release's default. Raises what `release.opened_artifact` raises, and
    UsageError for --trusted where nothing is a release: an artifact by itself has no signature.
    """
    from medattn_edge.release import is_release_address, opened_artifact

    keys, files, found = keys_of(trusted), list[Path](), False
    others = [dict[str, str]() for _ in paths]
    with ExitStack() as stack:
        for index, path in enumerate(paths):
            if not is_release_address(path):
                files.append(path)
                continue
            artifact = stack.enter_context(opened_artifact(path, keys))
            console.note(f"{path}: {artifact.file.name} of {in_words(artifact.release, trusted)}")
            files.append(artifact.file)
            named = artifact.release.manifest.artifacts.items()
            others[index] = {str(one["sha256"]): f"{artifact.release.path}#{name}" for name, one in named}
            found = True
        if keys and not found:
            raise UsageError(
                "--trusted without a release",
                expected="a release: an artifact by itself has no signature",
                hint="medattn-edge release write ARTIFACT -o DIR",
            )
        yield Opened(files, list(paths), others)


def in_words(release: VerifiedRelease, trusted: Path | None = None) -> str:
    """Which release it is and who says so, or that nobody was asked."""
    if release.signer is not None:
        return f"release {release.title}, signed by {release.signer.signer}"
    if release.signed:
        return f"release {release.title}, whose signature was not checked: --trusted KEY.pub"
    return f"release {release.title}, not signed: whole, but anybody may have made it"


def next_step(path: Path) -> str:
    """What to type to have a signature checked."""
    return f"medattn-edge release verify {quoted(path)} --trusted KEY.pub"
