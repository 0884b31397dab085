"""What trainers put beside the weights that is no code: paths, dates, arrays, options.

None of these classes is ever made. torch's restricted unpickler is given a stand-in under each name, which takes what
the file says and forgets it, so that nothing of numpy, pathlib or any other library runs while a file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Forgotten:
    """A value that is not a weight: made with any arguments and any state, and keeping none of them."""

    def __new__(cls, *values: Any, **named: Any) -> Forgotten:
        """The value without what it was made of."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""


class PlainTensor(torch.Tensor):
    """What a subclass of torch.Tensor is read as, such as MONAI's MetaTensor: its numbers, and none of its methods."""

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""


def _listed(values: Iterable[Any] = (), *limits: Any) -> list[Any]:
    """A deque as a list: the unpickler appends to nothing else."""
    return list(values)


def _empty(*factory: Any) -> dict[Any, Any]:
    """A defaultdict as a dictionary, which the unpickler then fills."""
    return {}


_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_NUMPY = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
_RANDOM = (
    "__RandomState_ctor",
    "_pickle.__randomstate_ctor",
    "_pickle.__generator_ctor",
    "_pickle.__bit_generator_ctor",
    *(f"_{module}.{name}" for module, name in (("mt19937", "MT19937"), ("pcg64", "PCG64"), ("philox", "Philox"))),
    "_sfc64.SFC64",
    "bit_generator.SeedSequence",
    "bit_generator.__pyx_unpickle_SeedSequence",
)
_BUILTINS = ("slice", "range", "frozenset", "bytes", "int", "float", "str", "bool", "list", "tuple", "dict", "object")
_OMEGACONF = (
    "dictconfig.DictConfig",
    "listconfig.ListConfig",
    "base.ContainerMetadata",
    "base.Metadata",
    *(f"nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean", "Path", "Bytes")),
)
_NAMES = (
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"{module}.{name}" for module in ("numpy.core", "numpy._core") for name in _NUMPY),
    *(f"numpy.random.{name}" for name in _RANDOM),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"builtins.{name}" for name in _BUILTINS),
    "copyreg._reconstructor",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "uuid.UUID",
    "uuid.SafeUUID",
    "decimal.Decimal",
    "fractions.Fraction",
    "typing.Any",
    *(f"omegaconf.{name}" for name in _OMEGACONF),
    "monai.utils.enums.SpaceKeys",
    "monai.utils.enums.TraceKeys",
    "monai.utils.enums.MetaKeys",
)
_OPTIONS = (  # dictionaries whose items are attributes too
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)
STAND_INS: list[Any] = [
    *((Forgotten, name) for name in _NAMES),
    *((dict, name) for name in _OPTIONS),
    (_listed, "collections.deque"),
    (_empty, "collections.defaultdict"),
    (PlainTensor, "monai.data.meta_tensor.MetaTensor"),
]
