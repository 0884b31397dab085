"""What else one would run the same network with: each opened in a process of its own, as our backends are.

`open_NAME` is called as `open_session` is. The threads are set, so that all rows have as many; the rest is left as it
comes. spec: of the network, also where the path is a plain ONNX file, which does not say it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError, UsageError
from medattn_edge.spec import ModelSpec


class Opener:
    """A function of a path and options, as `open_session` is called."""

    def __init__(self, make: Callable[[Path, Options], Session]) -> None:
        self._make = make

    def __call__(  # noqa: PLR0913 - as open_session
        self,
        path: Path | str,
        *,
        backend: str | None = None,
        device: str = "cpu",
        threads: int = 0,
        spec: ModelSpec | None = None,
        optimise: bool = True,
        provider: str = "",
        shared_cores: bool = False,
    ) -> Session:
        """A session; whatever the peer raises is a BackendError."""
        try:
            return self._make(Path(path), Options(device, threads, spec, optimise, provider, shared_cores))
        except Exception as error:
            raise _failed(error, f"cannot open {Path(path).name}") from error


class PeerSession(Session):
    """A session around one function of patches."""

    def __init__(self, spec: ModelSpec, function: Callable[[Patches], Any], batch: int | None, name: str) -> None:
        super().__init__(spec, batch=batch, facts={"backend": name})
        self._function = function

    def _run(self, patches: Patches) -> Patches:
        try:
            return np.asarray(self._function(patches))
        except Exception as error:
            raise _failed(error, "failed while running") from error


def _failed(error: Exception, what: str) -> BackendError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return BackendError(f"the peer {what}: {lines[0]}", expected="an answer", hint="leave this peer out")


@Opener
def open_torch_compile(path: Path, options: Options) -> Session:
    """torch.compile with its default, inductor, for one static shape; compiled by the first run."""
    import torch

    network, spec = _network(path, options)
    return _of_torch(torch.compile(network, dynamic=False), spec, "torch.compile")


@Opener
def open_max_autotune(path: Path, options: Options) -> Session:
    """torch.compile(mode="max-autotune"): inductor times its own templates; compiled by the first run."""
    import torch

    network, spec = _network(path, options)
    return _of_torch(torch.compile(network, dynamic=False, mode="max-autotune"), spec, "torch.compile, max-autotune")


@Opener
def open_torch_int8(path: Path, options: Options) -> Session:
    """torchao's PT2E quantization for x86, by its documentation: calibrated here, compiled by the first run.

    The calibration patches lie beside the checkpoint, as `calibration.npy` (n, C, *patch).
    """
    import torch
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    network, spec = _network(path, options)
    patches = torch.from_numpy(np.load(path.with_name("calibration.npy")))
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(network, (patches[:1],)).module(), quantizer)
        for patch in patches:
            prepared(patch[None])
        converted = convert_pt2e(prepared)
    return _of_torch(torch.compile(converted, dynamic=False), spec, "torchao pt2e")


@Opener
def open_torch_jit(path: Path, options: Options) -> Session:
    """Traced, frozen and given to torch.jit.optimize_for_inference."""
    import torch

    from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated

    network, spec = _network(path, options)
    with torchscript_is_deprecated(), torch.no_grad():
        traced = torch.jit.trace(network, torch.zeros(1, spec.in_channels, *spec.patch))
        module = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
    return _of_torch(module, spec, "torch.jit.optimize_for_inference")


@Opener
def open_onnxruntime(path: Path, options: Options) -> Session:
    """ONNX Runtime's defaults."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = options.threads
    session = ort.InferenceSession(str(path), settings)
    image = session.get_inputs()[0]

    def run(patches: Patches) -> Any:
        return session.run(None, {image.name: patches})[0]

    return PeerSession(_spec(path, options), run, image.shape[0], "onnxruntime-defaults")


@Opener
def open_openvino(path: Path, options: Options) -> Session:
    """OpenVINO without any hint: in BF16 where the CPU has it."""
    return _openvino(path, options, {})


@Opener
def open_openvino_f32(path: Path, options: Options) -> Session:
    """OpenVINO with the one hint that makes it compute what the graph says."""
    return _openvino(path, options, {"INFERENCE_PRECISION_HINT": "f32"})


def _openvino(path: Path, options: Options, hints: dict[str, Any]) -> Session:
    from medattn_edge.backends.openvino.library import imported

    threads = {"INFERENCE_NUM_THREADS": options.threads} if options.threads else {}
    core = imported().Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {**threads, **hints})
    batch = compiled.inputs[0].shape[0]
    return PeerSession(_spec(path, options), lambda patches: compiled([patches])[0], batch, "openvino-defaults")


def _of_torch(function: Callable[..., Any], spec: ModelSpec, name: str) -> Session:
    import torch

    def run(patches: Patches) -> Any:
        with torch.inference_mode():
            return function(torch.from_numpy(np.require(patches, requirements=["W"]))).float().numpy()

    return PeerSession(spec, run, None, name)


def _network(path: Path, options: Options) -> tuple[Any, ModelSpec]:
    from medattn_edge.backends.torch.session import prepare_torch
    from medattn_edge.models import checkpoint

    prepare_torch(options)
    loaded = checkpoint.load(path)
    return loaded.network.eval(), loaded.spec


def _spec(path: Path, options: Options) -> ModelSpec:
    if options.spec is None:
        raise UsageError(f"{path.name} without a spec", expected="the network's", hint="Candidate(spec=...)")
    return options.spec
