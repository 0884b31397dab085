"""Where a DICOMweb service is, and by what it knows us."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from medattn_edge.errors import UsageError, quoted

VARIABLE: Final = "MEDATTN_EDGE_DICOMWEB_CREDENTIALS"
SCHEMES: Final = ("http", "https")
TIMEOUT_S: Final = 30.0
_OTHERS: Final = {"dicomweb": "http", "dicomwebs": "https", "dicom-web": "http"}  # what other programs call it
_FORM: Final = "one line: bearer TOKEN, or basic USER:PASSWORD"
_MOST_BYTES: Final = 64 << 10  # of a file of credentials


@dataclass(frozen=True)
class Credentials:
    """What an archive asks for: a bearer token, or a user and a password (basic).

    Attributes:
        header: the value of HTTP's Authorization; no repr and no message shows it.
    """

    header: str = field(repr=False)

    @classmethod
    def of(cls, text: str, where: str) -> Credentials:
        """The credentials in a text: `bearer TOKEN` or `basic USER:PASSWORD`.

        Args:
            text: a line; white space around it is dropped.
            where: it is from, for the error, which never quotes it.

        Raises:
            UsageError: for any other text.
        """
        kind, _, secret = text.strip().partition(" ")
        secret = secret.strip()
        if kind.lower() == "bearer" and re.fullmatch(r"[!-~]+", secret):
            return cls(f"Bearer {secret}")
        user, colon, _ = secret.partition(":")
        if kind.lower() == "basic" and user and colon and secret.isprintable():
            return cls("Basic " + base64.b64encode(secret.encode()).decode())
        raise UsageError(f"{where} holds no credentials that can be used", expected=_FORM, hint="write it as that line")

    @classmethod
    def read(cls, path: Path) -> Credentials:
        """The credentials in a file that others may not read.

        Raises:
            UsageError: for a file that is not there, may be read by anybody, or holds something else.
        """
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror or error}", expected=_FORM, hint=f"ls -l {quoted(path)}"
            ) from error
        if mode & 0o007:
            raise UsageError(
                f"{path} has the mode {mode:04o}: others may read it",
                expected="0600 or 0640",
                hint=f"chmod o= {quoted(path)}",
            )
        return cls.of(content.decode("utf-8", "replace"), str(path))

    @classmethod
    def given(cls, path: Path | None) -> Credentials | None:
        """Those of a file; without one those of the variable MEDATTN_EDGE_DICOMWEB_CREDENTIALS, or None.

        Raises:
            UsageError: as `read` and `of` do.
        """
        if path is not None:
            return cls.read(path)
        text = os.environ.get(VARIABLE, "")
        return cls.of(text, f"the variable {VARIABLE}") if text else None


@dataclass(frozen=True)
class Archive:
    """A DICOMweb service.

    Attributes:
        url: of its root, to which /studies is added: http(s)://HOST:PORT/PATH.
        credentials: None for none.
        ca: PEM file of the authorities that sign its certificate; None: those of the system.
        certificate: PEM file that it is shown.
        key: PEM file of that certificate's key.
        timeout_s: to connect, and for each answer to begin.
    """

    url: str
    credentials: Credentials | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be such an address, and for credentials that anybody could read."""
        object.__setattr__(self, "url", checked_url(self.url))
        if self.credentials is not None and not self.encrypted and not self._near:
            raise UsageError(
                f"credentials for {self.url}, which would go over the network in the clear",
                expected="https://, or an archive on this machine",
                hint="https" + self.url.removeprefix("http"),
            )
        if not self.encrypted and (self.ca is not None or self.certificate is not None):
            raise UsageError(
                f"certificates for {self.url}, which has no TLS",
                expected="https://, or no certificates",
                hint="https" + self.url.removeprefix("http"),
            )

    @property
    def encrypted(self) -> bool:
        """Whether it is reached by TLS."""
        return self.url.startswith("https:")

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: credentials of one are none of another."""
        parts = urlsplit(self.url)
        return parts.scheme, str(parts.hostname), parts.port or (443 if self.encrypted else 80)

    @property
    def _near(self) -> bool:
        host = self.origin[1]
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def is_url(text: str) -> bool:
    """Whether an argument is an address and no path: SCHEME://..., whichever scheme."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def checked_url(text: str) -> str:
    """The address without a / at its end.

    Raises:
        UsageError: for another scheme, no host, a wrong port, a query, and a user or password in it, which everybody
            would see who lists processes; the error does not repeat these.
    """
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise UsageError(
            f"{text.rpartition('@')[2]!r}, which is no address",
            expected="http://HOST:PORT/PATH or https://HOST:PORT/PATH of a DICOMweb service",
            hint="https://HOST:PORT/dicom-web",
        )
    if scheme in _OTHERS:
        raise UsageError(
            f"the scheme {scheme}:// of an address",
            expected="the archive's own address: http:// or https:// says whether it has TLS",
            hint=f"{_OTHERS[scheme]}://{_without_user(rest)}",
        )
    if scheme not in SCHEMES:
        raise UsageError(
            f"the scheme {scheme}:// of an address", expected="http:// or https://", hint="https://HOST:PORT/dicom-web"
        )
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "a user or a password in an address",
            expected=f"credentials in a file or in the variable {VARIABLE}",
            hint=f"{scheme}://{_without_user(rest)} --credentials FILE",
        )
    if not host or parts.query or parts.fragment or not re.fullmatch(r"[!-z|~]+", rest):
        raise UsageError(
            f"the address {scheme}://{_without_user(rest).partition('?')[0]}",
            expected="http(s)://HOST:PORT/PATH of a DICOMweb service, without a query",
            hint="https://HOST:PORT/dicom-web",
        )
    return f"{scheme}://{rest}".rstrip("/")


def _without_user(rest: str) -> str:
    place, slash, path = rest.partition("/")
    return place.rpartition("@")[2] + slash + path
