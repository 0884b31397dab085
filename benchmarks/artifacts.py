"""The files of a case: made once, kept in a folder that is named by everything they are made of."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import networks
import numpy as np
import peer_files
from cases import Case
from quantised import int8
from trained import Patches, source_of

import medattn_edge
from medattn_edge.artifact import Artifact, sha256, tool_versions
from medattn_edge.backends.compiler import CompileSettings
from medattn_edge.compile.compilation import compile_artifact
from medattn_edge.exporters import ExportSettings, export_fp32
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.precision import fp16
from medattn_edge.rewrites import defaults, rewrite

# A change in these makes other files.
_MADE_BY = ("models/*.py", "rewrites/*.py", "exporters/*.py", "precision/**/*.py", "backends/openvino/*.py")
_AND_BY = ("networks.py", "trained.py", "artifacts.py", "quantised.py", "peer_files.py")


class Files:
    """Makes the files of a case when asked; `Form.made` names a public method, or a function of `peer_files`.

    Each raises what the product raises when it refuses to write: that is the row's verdict.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, Path(folder) / f"{case.name}-{_key(case)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def patches(self) -> Patches:
        """To calibrate on, and to judge on."""
        return networks.patches(self.case)

    @cached_property
    def loaded(self) -> checkpoints.Checkpoint:
        """The checkpoint's network."""
        return checkpoints.load(self.checkpoint())

    def make(self, name: str) -> Path:
        """The file that a form names."""
        made: Path = getattr(self, name)() if hasattr(self, name) else getattr(peer_files, name)(self)
        return made

    def checkpoint(self) -> Path:
        """The network as it is, in our own form."""
        path = self.folder / "network.safetensors"
        if not path.is_file():
            networks.write(self.case, path)
        return path

    def torchscript(self) -> Path:
        """Fused, scripted and frozen."""
        return self._exported("fused.torchscript", "torchscript")

    def onnx(self) -> Path:
        """Fused as ONNX Runtime likes it."""
        return self._exported("fused.onnx", "onnxruntime")

    def onnx_for_openvino(self) -> Path:
        """Fused as OpenVINO likes it in FP32."""
        return self._exported("openvino.onnx", "openvino")

    def onnx_for_all(self) -> Path:
        """Fused as `export` does it by default: what every other precision is made from."""
        return self._exported("default.onnx", "onnx")

    def onnx_for_tensorrt(self) -> Path:
        """Fused as TensorRT likes it."""
        return self._exported("tensorrt.onnx", "tensorrt")

    def openvino(self) -> Path:
        """The IR of the fused graph."""
        return self._compiled("fused.xml", self.onnx_for_openvino())

    def fp16(self) -> Path:
        """The fused graph in FP16 with its islands."""
        return self._fp16("fp16.onnx", self.onnx())

    def int8_nncf(self) -> Path:
        """INT8 through NNCF on the ONNX graph."""
        return self._int8("int8-nncf.onnx", self.onnx(), "nncf-onnx")

    def int8_ort(self) -> Path:
        """INT8 through ONNX Runtime's quantiser with our ranges."""
        return self._int8("int8-ort.onnx", self.onnx(), "onnxruntime")

    def int8_openvino(self) -> Path:
        """INT8 through NNCF on the OpenVINO model."""
        return self._int8("int8.xml", self.onnx_for_all(), "nncf-openvino")

    def int8_without_vnni(self) -> Path:
        """The same for a CPU without VNNI, whatever this one has: weights of 7 bits."""
        return self._int8("int8-x86.xml", self.onnx_for_all(), "nncf-openvino", isa="x86")

    def int8_bf16(self) -> Path:
        """The same, with BF16 asked for where it is not INT8."""
        path = self.folder / "int8-bf16.xml"
        if not path.is_file():
            settings = CompileSettings(inference_precision="bf16")
            # All of them: in one slice a label may have few voxels, of which a few that flip are many.
            compile_artifact(self.int8_openvino(), path, None, settings, {"held out": self.patches.held_out})
        return path

    def engine(self) -> Path:
        """TensorRT, FP32."""
        return self._compiled("fused.engine", self.onnx_for_tensorrt())

    def engine_fp16(self) -> Path:
        """TensorRT, the typed FP16 graph."""
        return self._compiled("fp16.engine", self._fp16("tensorrt-fp16.onnx", self.onnx_for_tensorrt()))

    def engine_int8(self) -> Path:
        """TensorRT, symmetric Q/DQ."""
        return self._compiled("int8.engine", self._int8_for_tensorrt())

    def rtx(self) -> Path:
        """TensorRT for RTX, FP32."""
        return self._compiled("fused.rtx", self.onnx_for_tensorrt())

    def rtx_fp16(self) -> Path:
        """TensorRT for RTX, the typed FP16 graph."""
        return self._compiled("fp16.rtx", self._fp16("tensorrt-fp16.onnx", self.onnx_for_tensorrt()))

    def rtx_int8(self) -> Path:
        """TensorRT for RTX, symmetric Q/DQ."""
        return self._compiled("int8.rtx", self._int8_for_tensorrt())

    def torch_tensorrt(self) -> Path:
        """Torch-TensorRT, FP32."""
        return self._compiled("fused.ts", self.checkpoint())

    def _exported(self, name: str, runtime: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            spec = self.loaded.spec
            export_fp32(
                rewrite(self.loaded, defaults(runtime, spec.patch)),
                path,
                {"held out": self.patches.held_out[:1]},
                settings=ExportSettings(batch=self.case.batch),
                gate=self.case.gates["fp32"],
            )
        return path

    def _compiled(self, name: str, source: Path) -> Path:
        path = self.folder / name
        if not path.is_file():
            compile_artifact(source, path, None, CompileSettings(), {"held out": self.patches.held_out[:1]})
        return path

    def _fp16(self, name: str, source: Path) -> Path:
        path = self.folder / name
        if not path.is_file():
            calibration, held_out, _ = self.patches
            real = {"calibration": calibration[:1], "held out": held_out[:1]}
            noise = np.random.default_rng(0).random(held_out[:1].shape, dtype=np.float32)
            fp16.convert(Artifact.read(source), path, real, noise, gate=self.case.gates["fp16"])
        return path

    def _int8(self, name: str, source: Path, quantizer: str, profile: str = "cpu", isa: str = "") -> Path:
        path = self.folder / name
        if not path.is_file():
            int8(
                Artifact.read(source),
                path,
                (quantizer, profile),
                self.patches,
                (self.case.gates["int8"], self.case.trials),
                isa,
            )
        return path

    def _int8_for_tensorrt(self) -> Path:
        return self._int8("tensorrt-int8.onnx", self.onnx_for_tensorrt(), "onnxruntime", "tensorrt")


def _key(case: Case) -> str:
    """What the files are made of: the case, the code and the versions."""
    root = Path(medattn_edge.__file__).parent
    sources = [path for pattern in _MADE_BY for path in sorted(root.glob(pattern))]
    sources += [Path(__file__).with_name(name) for name in _AND_BY]
    source = sha256(source_of(case.source).path) if case.trained else ""
    plain = {**case._asdict(), "sha256": source, "gates": {name: gate.to_json() for name, gate in case.gates.items()}}
    told = json.dumps([plain, tool_versions()], sort_keys=True, default=dict).encode()
    return hashlib.sha256(told + b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
