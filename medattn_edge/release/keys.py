"""Keys of releases: Ed25519 in PEM, as OpenSSL writes and reads them.

A file of trusted keys is any number of public keys one behind the other, each below a line with its name, so that
`cat a.pub b.pub` makes one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import IntegrityError, MedattnError, MissingDependency, OutputError, UsageError, quoted
from medattn_edge.host.system import set_mode
from medattn_edge.nearby import place_hint
from medattn_edge.release.manifest import SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES: Final = 64  # RFC 8032
_MAX_KEY_BYTES: Final = 1 << 20
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.*?-----END \1-----", re.DOTALL)
_SIGNER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_PUBLIC: Final = "PUBLIC KEY"
_TITLE: Final = "signer: "
_A_PUBLIC_KEY: Final = "Ed25519 public keys in PEM, as `release keygen` writes them"
_SEE: Final = "medattn-edge release keygen --help"


@dataclass(frozen=True)
class TrustedKey:
    """A public key that is believed.

    Attributes:
        signer: whose it is, by the file that names it.
        fingerprint: the SHA-256 of the key's 32 bytes, hexadecimal.
        raw: those bytes.
    """

    signer: str
    fingerprint: str
    raw: bytes

    @classmethod
    def of(cls, signer: str, key: Ed25519PublicKey) -> TrustedKey:
        """A key under a name."""
        raw = key.public_bytes_raw()
        return cls(signer, hashlib.sha256(raw).hexdigest(), raw)


def generate_key(path: Path, signer: str = "") -> TrustedKey:
    """Write a new private key (mode 0600, without a password) and, beside it, KEY.pub.

    Args:
        path: of the private key; neither it nor KEY.pub may exist.
        signer: the name that KEY.pub gives the key; by default the file's own.

    Raises:
        UsageError: when one of them exists, or for a name that is no line of text.
        OutputError: when the folder cannot be written.
        MissingDependency: without cryptography.
    """
    serialization, ed25519 = _library()
    path, signer = Path(path), signer or Path(path).stem
    public = path.with_name(path.name + ".pub")
    if not _SIGNER.fullmatch(signer) or signer != signer.strip() or "-----" in signer:
        raise UsageError(f"the signer {signer!r}", expected="one line of 1 to 100 characters", hint="--signer 'A Team'")
    key = ed25519.Ed25519PrivateKey.generate()
    trusted = TrustedKey.of(signer, key.public_key())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with _new_file(path, 0o600) as file, _new_file(public, 0o644) as beside:
        _write(file, private)
        _write(beside, _pem(trusted))
    return trusted


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """A private key that nobody else can read.

    Raises:
        UsageError: for a file that is none, another kind of key, one with a password, or one that others may read.
        MissingDependency: without cryptography.
    """
    serialization, ed25519 = _library()
    path = Path(path)
    data, mode = _read(path)
    if mode & 0o077:
        raise UsageError(
            f"{path} has the mode {mode:04o}: others may read or change it",
            expected="0600",
            hint=f"chmod 600 {quoted(path)}; when others may have read it: make a new key",
        )
    if b"PRIVATE KEY" not in data and b"PUBLIC KEY" in data:
        raise UsageError(f"{path} is a public key", expected="the private key", hint=f"--key {quoted(path.stem)}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        what = "has a password" if isinstance(error, TypeError) else f"cannot be read: {_first(error)}"
        raise UsageError(f"{path} {what}", expected="a private key as `release keygen` writes it", hint=_SEE) from error
    except Exception as error:  # UnsupportedAlgorithm, which is no ValueError
        raise UsageError(f"{path} cannot be read: {_first(error)}", expected="Ed25519", hint=_SEE) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(
            f"{path} is a key of another kind ({type(key).__name__.lstrip('_')})", expected="Ed25519", hint=_SEE
        )
    private: Ed25519PrivateKey = key
    return private


def trusted_keys(path: Path) -> tuple[TrustedKey, ...]:
    """The keys of a file of trusted keys, or the one of a KEY.pub.

    Raises:
        UsageError: for a file that is none, another kind of key, a private key, a name or a key that comes twice, and
            for a file that everybody may change.
        MissingDependency: without cryptography.
    """
    _library()
    path = Path(path)
    data, mode = _read(path)
    if mode & 0o002:
        raise UsageError(
            f"{path} has the mode {mode:04o}: everybody may change whom it trusts",
            expected="0644 or less",
            hint=f"chmod o-w {quoted(path)}",
        )
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text", expected=_A_PUBLIC_KEY, hint=_SEE) from error
    keys = list(_keys_of(text, path))
    if not keys:
        raise UsageError(f"{path} holds no key", expected=_A_PUBLIC_KEY, hint=_SEE)
    for what, values in (("name", [one.signer for one in keys]), ("key", [one.fingerprint for one in keys])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UsageError(f"{path} has the {what} {twice!r} twice", expected="each once", hint="remove one of them")
    return tuple(keys)


def verified_by(data: bytes, signature: bytes, keys: tuple[TrustedKey, ...]) -> TrustedKey:
    """Which of the trusted keys signed these bytes; nothing of them is interpreted.

    Raises:
        IntegrityError: when none did.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(signature) == SIGNATURE_BYTES:
        for key in keys:
            try:
                Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, data)
            except InvalidSignature:
                continue
            return key
    names = ", ".join(f"{key.signer} ({key.fingerprint[:16]}...)" for key in keys)
    raise IntegrityError(
        f"{SIGNATURE} is no signature of this release by a trusted key",
        expected=f"one by {names}",
        hint="do not use it: it was changed, or somebody else signed it; ask who made it for KEY.pub and a new copy",
    )


def _keys_of(text: str, path: Path) -> Iterator[TrustedKey]:
    serialization, ed25519 = _library()
    end = 0
    for block in _BLOCK.finditer(text):
        above, end = text[end : block.start()], block.end()
        if "-----" in above:
            break
        if block[1] != _PUBLIC:
            raise UsageError(
                f"{path} holds a {block[1].lower()}", expected=_A_PUBLIC_KEY, hint="give KEY.pub, and never KEY itself"
            )
        try:
            key = serialization.load_pem_public_key(block[0].encode())
        except Exception as error:  # ValueError, or UnsupportedAlgorithm, which is none
            raise UsageError(
                f"{path} holds a damaged key: {_first(error)}", expected=_A_PUBLIC_KEY, hint="copy it again"
            ) from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            kind = type(key).__name__.lstrip("_")
            raise UsageError(f"{path} holds a key of another kind ({kind})", expected="Ed25519", hint=_SEE)
        lines = [line.strip() for line in above.splitlines() if line.strip()]
        signer = lines[-1].removeprefix(_TITLE).strip() if lines else path.stem
        if not _SIGNER.fullmatch(signer):
            raise UsageError(f"{path} has a key of the name {signer!r}", expected="one line of text", hint=_SEE)
        trusted = TrustedKey.of(signer, key)
        # The bits that base64 leaves over: one key, one text.
        if _pem(trusted).decode().partition("-----")[2] != block[0].partition("-----")[2] + "\n":
            raise UsageError(f"{path} holds a damaged key", expected=_A_PUBLIC_KEY, hint="copy it again")
        yield trusted
    if text[end:].strip():
        raise UsageError(f"{path} holds a damaged key", expected=_A_PUBLIC_KEY, hint="copy it again")


def _pem(key: TrustedKey) -> bytes:
    """A public key below its name. The twelve bytes are SubjectPublicKeyInfo of Ed25519 (RFC 8410)."""
    body = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + key.raw).decode()
    return f"{_TITLE}{key.signer}\n-----BEGIN {_PUBLIC}-----\n{body}\n-----END {_PUBLIC}-----\n".encode()


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            data, mode = file.read(_MAX_KEY_BYTES + 1), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        hint = f"ls -l {quoted(path.parent)}" if path.exists() else place_hint(path)
        raise UsageError(f"{path} cannot be read: {error.strerror}", expected="a key", hint=hint) from error
    if len(data) > _MAX_KEY_BYTES:
        raise UsageError(f"{path} has more than {_MAX_KEY_BYTES} bytes", expected="a key", hint=_SEE)
    return data, mode


@contextmanager
def _new_file(path: Path, mode: int) -> Iterator[int]:
    """A file that was not there, and is not when the block fails. Raises as `generate_key` does."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists", expected="a new file: a key that is lost cannot be made again", hint="-o ANOTHER_KEY"
        ) from error
    except OSError as error:
        raise _not_written(path, error) from error
    try:
        set_mode(descriptor, mode)
        yield descriptor
        os.fsync(descriptor)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_written(path, error) from error
        raise
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _not_written(path: Path, error: OSError) -> MedattnError:
    return OutputError(
        f"cannot write {path}: {error.strerror}",
        expected="a folder that is there, free space and permission to write",
        hint=f"ls -ld {quoted(path.parent)}; df -h {quoted(path.parent)}",
    )


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependency.of_extra("cryptography", "release") from error
    return serialization, ed25519
