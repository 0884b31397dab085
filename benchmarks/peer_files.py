"""The files that other tools make of a case's network by themselves, as their users would: nothing of ours is in them.

Each function takes the case's `Files` and returns the path of its file, made once. Each tool is told the calibration
patches and left its defaults, or the recipe that its own documentation recommends, which the docstring then names.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import BackendError, MedattnError
from medattn_edge.labels import Meaning

if TYPE_CHECKING:
    from artifacts import Files

ACCURACY_CONTROL_S = 600.0  # NNCF ranks every layer by a run of its own; a row that takes longer is left out
MAX_DROP = 0.001  # of the share of voxels whose label is the FP32 network's


def plain(files: Files) -> Path:
    """What torch.onnx.export makes of the network: nothing rewritten, nothing folded by us."""

    def write(path: Path) -> None:
        import onnx
        import torch

        spec = files.loaded.spec
        image = torch.zeros(files.case.batch, spec.in_channels, *spec.patch)
        program = torch.onnx.export(files.loaded.network, (image,), dynamo=True, verbose=False)
        assert program is not None
        onnx.save(program.model_proto, str(path))

    return _once(files, "plain.onnx", write)


def quantize_static(files: Files) -> Path:
    """ONNX Runtime's quantize_static of the plain export, by its defaults."""
    source = plain(files)

    def write(path: Path) -> None:
        from onnxruntime.quantization import quantize_static

        quantize_static(str(source), str(path), _reader(files, source))

    return _once(files, "quantize_static.onnx", write)


def quantize_recommended(files: Files) -> Path:
    """ONNX Runtime's own recipe for a CPU: preprocessed first, Q/DQ, weights signed and scaled per channel."""
    source = plain(files)

    def write(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(path),
                _reader(files, prepared),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )

    return _once(files, "quantize_recommended.onnx", write)


def quantize_dynamic(files: Files) -> Path:
    """ONNX Runtime's quantize_dynamic of the plain export: no calibration, ranges taken at run time."""
    source = plain(files)

    def write(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # Signed weights have no dynamic convolution in ONNX Runtime's CPU provider.
        quantize_dynamic(str(source), str(path), weight_type=QuantType.QUInt8)

    return _once(files, "quantize_dynamic.onnx", write)


def nncf_default(files: Files) -> Path:
    """What somebody who knows OpenVINO would type: nncf.quantize with its defaults on the plain export."""
    return _of_nncf(files, "nncf.xml", lambda nncf, model, patches: nncf.quantize(model, patches))


def nncf_accuracy(files: Files) -> Path:
    """NNCF with accuracy control: layers go back until at most MAX_DROP of the voxels change their label.

    Raises BackendError when it has not ended after ACCURACY_CONTROL_S.
    """
    meaning = Meaning.of(files.loaded.spec)
    expected = dict[bytes, Any]()
    began = time.monotonic()

    def score(model: Any, patches: Any) -> tuple[float, None]:
        if time.monotonic() - began > ACCURACY_CONTROL_S:
            raise BackendError(
                f"accuracy control has not ended after {ACCURACY_CONTROL_S:g} s",
                expected="an end",
                hint="leave this peer out",
            )
        shares = []
        for patch in patches:
            labels = meaning.labels_of(model([patch])[0][0])
            # NNCF asks for the floating-point model first, for one patch alone and then for all.
            shares.append(np.mean(expected.setdefault(np.asarray(patch).tobytes(), labels) == labels))
        return float(np.mean(shares)), None

    def quantise(nncf: Any, model: Any, patches: Any) -> Any:
        held_out = nncf.Dataset([patch[None] for patch in files.patches.held_out])
        return nncf.quantize_with_accuracy_control(model, patches, held_out, score, max_drop=MAX_DROP)

    return _of_nncf(files, "nncf-accuracy.xml", quantise)


def torch_int8(files: Files) -> Path:
    """The checkpoint with its calibration patches beside it: torchao quantises when the row's process opens it."""
    checkpoint = files.checkpoint()

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, files.patches.calibration)

    _once(files, "calibration.npy", write)
    return checkpoint


def _of_nncf(files: Files, name: str, quantise: Callable[[Any, Any, Any], Any]) -> Path:
    source = plain(files)

    def write(path: Path) -> None:
        from medattn_edge.backends.openvino.library import imported, imported_nncf

        openvino, nncf = imported(), imported_nncf()
        patches = nncf.Dataset([patch[None] for patch in files.patches.calibration])
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            openvino.save_model(
                quantise(nncf, openvino.Core().read_model(str(source)), patches),
                str(Path(folder) / name),
                compress_to_fp16=False,
            )
            (Path(folder) / name).with_suffix(".bin").replace(files.folder / Path(name).with_suffix(".bin"))
            (Path(folder) / name).replace(path)

    return _once(files, name, write)


def _once(files: Files, name: str, write: Callable[[Path], None]) -> Path:
    path = files.folder / name
    if not path.is_file():
        try:
            with replacing(path) as temporary, _quiet():
                write(temporary)
        except MedattnError:
            raise
        except Exception as error:  # whatever a peer raises is its row's verdict
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackendError(
                f"{name} cannot be made: {first}", expected="a file", hint="leave this peer out"
            ) from error
    return path


def _reader(files: Files, source: Path) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    name = str(onnx.load(str(source), load_external_data=False).graph.input[0].name)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([{name: patch} for patch in files.patches.calibration[:, None]])

        def get_next(self) -> Any:
            return next(self._left, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Foreign tools talk: about packages that they would like, and of their own deprecated pieces."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
