"""Every error that medattn_edge raises on purpose.

    MedattnError                    what was found, what was expected, what to type next
    |-- UsageError              2   an option or an argument that cannot be used
    |-- HostError               3   this host cannot do it
    |   |-- MissingDependency       a package is not installed
    |   `-- OutputError             a file cannot be written (disk full, no permission)
    |-- InputError              4   data that cannot be used
    |   |-- ScanError               a scan or labels file
    |   |   `-- ModalityError       a scan of another modality than the network's
    |   |-- GeometryError           an affine, a spacing or a grid
    |   |-- CheckpointError         a training file
    |   `-- ShapeError              an array that does not fit the network
    |-- IntegrityError          5   an artifact that is not what its manifest says
    |-- BackendError            6   a runtime or a device failed
    `-- AgreementError          1   a gate: the answer changed

The number is the exit code of the command line. A bug keeps its own exception and traceback.
"""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import Any, ClassVar

from medattn_edge.installation import install_line


def quoted(path: PurePath | str) -> str:
    """A path as a shell takes it, for the command of a hint: quoted when it has to be."""
    return shlex.quote(str(path))


class MedattnError(Exception):
    """Base of the tree. Errors can be pickled and copied, whatever the arguments of their own constructor are.

    Attributes:
        found: what is wrong, in one sentence without a full stop.
        expected: what would have been right.
        hint: what to type or do next.
        exit_code: of the command line.
        code: for programs: lower case, with underscores; it never changes.
    """

    exit_code: ClassVar[int] = 6
    code: ClassVar[str] = "error"

    def __init__(self, found: str, *, expected: str = "", hint: str = "") -> None:
        self.found, self.expected, self.hint = found, expected, hint
        super().__init__(found, expected, hint)

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle and copy rebuild: subclasses have constructors of their own, which need not be called again."""
        return _restore, (type(self), self.args, self.__dict__)

    @property
    def message(self) -> str:
        """What was found and what was expected, without the hint."""
        return f"{self.found}; expected {self.expected}" if self.expected else self.found

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


def _restore(kind: type[MedattnError], args: tuple[Any, ...], attributes: dict[str, Any]) -> MedattnError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class UsageError(MedattnError):
    """An option or an argument that cannot be used."""

    exit_code, code = 2, "usage"


class HostError(MedattnError):
    """This host cannot do what was asked."""

    exit_code, code = 3, "environment"


class MissingDependency(HostError):
    """A package that the request needs is not installed."""

    code = "missing_dependency"

    @classmethod
    def of_extra(cls, package: str, extra: str) -> MissingDependency:
        """The error for a package that the extra installs; the extra is "" for what another package's record needs."""
        return cls(
            f"the package {package!r} is not installed",
            expected=f"the extra {extra!r} of medattn-edge" if extra else f"{package!r}, which an entry point needs",
            hint=install_line(extra) if extra else f"pip install {package}",
        )


class OutputError(HostError):
    """A file cannot be written; whatever stood there before is untouched."""

    code = "output"


class InputError(MedattnError):
    """Data that cannot be used."""

    exit_code, code = 4, "input"


class ScanError(InputError):
    """A scan, a picture or a labels file that cannot be used."""

    code = "scan"


class ModalityError(ScanError):
    """A scan of another modality than the network was trained on."""

    code = "other_modality"


class GeometryError(InputError):
    """An affine, a spacing or a grid that cannot be used."""

    code = "geometry"


class CheckpointError(InputError):
    """A training file that cannot be read into a network."""

    code = "checkpoint"


class ShapeError(InputError):
    """An array whose shape the network cannot take."""

    code = "shape"


class IntegrityError(MedattnError):
    """An artifact that is not what its manifest says, or whose manifest cannot be trusted."""

    exit_code, code = 5, "integrity"


class BackendError(MedattnError):
    """A runtime or a device failed."""

    exit_code, code = 6, "backend"


class AgreementError(MedattnError):
    """A gate failed: the candidate's answer is not the reference's."""

    exit_code, code = 1, "agreement"
