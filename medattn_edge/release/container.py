"""The files of a release as bytes, from a folder or a .zip, read without following anything out of it.

Nothing is interpreted here. A folder is held open by its descriptor, and each file by its own, without following links;
a .zip is what `packed` writes, byte for byte: its files are stored and not compressed, so that none grows.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, Protocol

from medattn_edge.errors import InputError, IntegrityError, MedattnError, quoted
from medattn_edge.host.system import read_at
from medattn_edge.nearby import place_hint
from medattn_edge.release.manifest import MANIFEST, MAX_FILES, check_file_names

# Windows lacks the first two; only there bytes are text unless one says that they are not.
_PLAIN: Final[int] = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
CHUNK: Final = 1 << 20
_MAX_DIRECTORY: Final = 1 << 20  # of a .zip: a thousand entries have less
_END: Final = struct.Struct("<4s4H2LH")  # end of central directory (PKWARE APPNOTE 4.3.16), without a comment
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_AGAIN: Final = "copy the release again from where it was made"


class Container(Protocol):
    """Where the bytes of a release come from.

    Attributes:
        path: of the folder or the .zip.
        names: of all files, sorted; checked.
    """

    path: Path
    names: tuple[str, ...]

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """The bytes of a file, piece by piece. Raises IntegrityError when there are more than `limit`."""
        ...

    def finish(self) -> None:
        """Raises IntegrityError when there are bytes that belong to no file."""
        ...


def is_release(path: Path) -> bool:
    """Whether a path is to be opened as a release: a folder with a release.json, or a .zip that speaks of one."""
    if path.is_dir():
        return os.path.lexists(path / MANIFEST)
    if path.suffix.lower() != ".zip" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, _MAX_DIRECTORY), os.SEEK_END)
            return MANIFEST.encode() in file.read(_MAX_DIRECTORY)
    except OSError:
        return False  # whoever opens it says what is wrong


@contextmanager
def opened_container(path: Path) -> Iterator[Container]:
    """The files of a release.

    Raises:
        InputError: when there is no release.
        IntegrityError: for names that lead elsewhere, entries that are no plain files, and a .zip of another making.
    """
    path = Path(path)
    try:
        if path.is_dir():
            if not hasattr(os, "O_DIRECTORY"):
                yield _Folder(path, None)
                return
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield _Folder(path, descriptor)
            finally:
                os.close(descriptor)
        else:
            with path.open("rb") as file:
                yield _Zip(path, file)
    except OSError as error:
        about = None if error.filename is None else Path(os.fsdecode(error.filename))
        if about != path:
            raise
        hint = f"ls -l {quoted(path.parent)}" if path.exists() else place_hint(path)
        raise InputError(f"{path} cannot be opened: {error.strerror}", expected="a release", hint=hint) from error


class _Folder:
    """A folder, held by its descriptor: it may be renamed or replaced, and this is still the one.

    Where the system opens no folders (None), by its path: what is used is what was hashed all the same.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path, self._descriptor = path, descriptor
        names: list[str] = []
        with os.scandir(path if descriptor is None else descriptor) as entries:
            for entry in entries:
                names.append(entry.name)
                if not entry.is_file(follow_symlinks=False):
                    kind = "a symbolic link" if entry.is_symlink() else "a folder or a special file"
                    raise _refused(path, f"{entry.name!r} is {kind}", "plain files only")
                if len(names) > MAX_FILES + 2:
                    raise _refused(path, f"more than {MAX_FILES} files", "the files of its manifest")
        self.names = _checked(path, names)

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        try:
            descriptor = self._open(name)
        except OSError as error:
            raise _refused(self.path, f"{name} cannot be read: {error.strerror}", "a plain file") from error
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _refused(self.path, f"{name} is no plain file any more", "a plain file")
            yield from _pieces(self.path, name, file, limit)

    def _open(self, name: str) -> int:
        if self._descriptor is not None:
            return os.open(name, _PLAIN, dir_fd=self._descriptor)
        if (self.path / name).is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link now")
        return os.open(self.path / name, _PLAIN)

    def finish(self) -> None:
        """A folder has nothing beside its files."""


class _Zip:
    """A .zip, read from one open file; every byte that is not of a file has to be as `packed` writes it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._check_end()
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            raise _no_zip(path, str(error)) from error
        entries = self._zip.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise _no_zip(path, f"{entry.filename!r} is compressed")
            if entry.flag_bits & 1:
                raise _no_zip(path, f"{entry.filename!r} is encrypted")
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                raise _refused(path, f"{entry.filename!r} is no plain file", "plain files only")
        if sum(entry.file_size for entry in entries) > self._size:
            raise _no_zip(path, "its files are larger than itself")
        # `orig_filename` is before a NUL cuts it.
        self.names = _checked(path, [entry.orig_filename for entry in entries])

    def _check_end(self) -> None:
        """Before a library reads the directory, which it does as a whole."""
        if self._size < _END.size:
            raise _no_zip(self.path, "it is cut off")
        self._file.seek(-_END.size, os.SEEK_END)
        sign, disk, first, here, total, size, _, comment = _END.unpack(self._file.read(_END.size))
        if sign != b"PK\x05\x06" or disk or first or here != total or comment:
            raise _no_zip(self.path, "its end is not where it should be")
        if total > MAX_FILES + 2 or size > _MAX_DIRECTORY:
            raise _no_zip(self.path, f"{total} entries in {size} bytes")

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        try:
            with self._zip.open(name) as file:
                yield from _pieces(self.path, name, file, limit)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise _no_zip(self.path, f"{name}: {error}") from error  # an offset before the file's start is an OSError

    def finish(self) -> None:
        """Raises IntegrityError when a byte between the files, or behind them, is another than `packed` writes."""
        same = _Same(self._file.fileno())
        try:
            pack(same, [(entry.orig_filename, entry.file_size) for entry in self._zip.infolist()], self._whole)
        except zipfile.LargeZipFile as error:
            raise _no_zip(self.path, str(error)) from error
        if same.differs or same.offset != self._size:
            raise _no_zip(self.path, "it has bytes that belong to no file, or headers of another making")

    def _whole(self, name: str) -> Iterator[bytes]:
        return self.chunks(name, self._size)


class _Same:
    """A sink that holds what is written to it against an open file, which it does not move in."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self.offset, self.differs = descriptor, 0, False

    def write(self, data: bytes, /) -> int:
        found = read_at(self._descriptor, len(data), self.offset)
        self.differs, self.offset = self.differs or found != bytes(data), self.offset + len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""


class Sink(Protocol):
    """Where a .zip goes: it is written from its first byte to its last."""

    def write(self, data: bytes, /) -> int:
        """Take bytes."""
        ...

    def flush(self) -> None:
        """Nothing more is coming for now."""
        ...


class Contents(Protocol):
    """The bytes of a file by its name."""

    def __call__(self, name: str) -> Iterator[bytes]:
        """Piece by piece."""
        ...


def pack(sink: Sink, files: list[tuple[str, int]], contents: Contents) -> None:
    """Write a .zip of files, sorted by name, stored, dated 1980: the same files give the same bytes.

    Args:
        sink: what takes them.
        files: name and size in bytes of each.
        contents: the bytes of each.
    """
    with zipfile.ZipFile(_Forward(sink), "w", zipfile.ZIP_STORED, allowZip64=False) as packed:
        for name, size in sorted(files):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr, entry.file_size = 3, (stat.S_IFREG | 0o644) << 16, size
            with packed.open(entry, "w") as into:
                for piece in contents(name):
                    into.write(piece)


class _Forward:
    """A file that cannot be sought in, so that zipfile writes every byte once and in order."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: bytes, /) -> int:
        """To the sink."""
        return self._sink.write(data)

    def flush(self) -> None:
        """The sink's."""
        self._sink.flush()

    def close(self) -> None:
        """The sink is its owner's."""


def _pieces(path: Path, name: str, file: IO[bytes], limit: int) -> Iterator[bytes]:
    left = limit
    while piece := file.read(CHUNK):
        left -= len(piece)
        if left < 0:
            raise _refused(path, f"{name} has more than {limit} bytes", "the size that is known of it")
        yield piece


def _checked(path: Path, names: list[str]) -> tuple[str, ...]:
    try:
        check_file_names(tuple(names))
    except ValueError as error:
        raise _refused(path, str(error), "files of a release, all in one folder") from error
    return tuple(sorted(names))


def _refused(path: Path, what: str, expected: str) -> IntegrityError:
    return IntegrityError(f"the release {path.name}: {what}", expected=expected, hint=_AGAIN)


def _no_zip(path: Path, why: str) -> MedattnError:
    return IntegrityError(
        f"{path.name} is no release: {why}",
        expected="a .zip as `release write` makes it",
        hint=f"{_AGAIN}, or unpack it and open the folder",
    )
