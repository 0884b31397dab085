"""ONNX -> serialised engine, by one path for TensorRT 10, TensorRT 11 and TensorRT-RTX.

The network is strongly typed: every tensor has the precision that the graph gives it, and no flag of the builder
changes one. TensorRT 11 knows nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medattn_edge.atomic import replacing
from medattn_edge.backends.compiler import CompileSettings, Progress, Source
from medattn_edge.backends.tensorrt.library import Library, imported, log_of, reasons, warnings
from medattn_edge.backends.tensorrt.progress import new_monitor
from medattn_edge.errors import BackendError, UsageError, quoted

BATCHES = (1, 1, 8)  # the least, the best and the most patches of one run of an engine whose batch is free
_MODULE = "module"  # the node metadata that names the PyTorch module, as our export writes it
_UINT8 = 2  # TensorProto.UINT8
_CHANGED = ("defaulting to int8", "will use int8 instead", "uint8")  # the parser warns, and computes something else


@dataclass(frozen=True)
class Engine:
    """data: the serialised engine. version: of the library that made it. warnings: what it said meanwhile."""

    data: bytes
    version: str
    warnings: tuple[str, ...]


def build(
    library: Library,
    source: Source,
    settings: CompileSettings,
    progress: Progress | None = None,
    capabilities: tuple[str, ...] = (),
) -> Engine:
    """The engine of an ONNX file; nothing is written but the timing cache.

    capabilities: the GPUs to build for, such as sm86, where the library can choose; empty: the GPU of this host.
    Raises UsageError for settings that cannot be followed; BackendError, naming the node and its PyTorch module, for a
    graph that the parser refuses or would change, and with the builder's reason when it fails.
    """
    trt = imported(library)
    log, listeners = log_of(library)
    with listeners.collecting() as heard:
        builder = trt.Builder(log)
        builder.max_threads = settings.threads or builder.max_threads
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        parsed = parser.parse_from_file(str(source.path))
        _check_parser(parser, parsed, warnings(heard), source)
        config = builder.create_builder_config()
        _configure(trt, config, settings, capabilities)
        timings = _timing_cache(config, settings.timing_cache)
        if source.manifest.batch is None:
            _free_the_batch(builder, config, source)
        monitor = new_monitor(trt, progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        monitor.phases.raise_what_stopped_it()
    if plan is None:
        raise BackendError(
            f"{library.name} cannot build {source.path.name}: {'; '.join(reasons(heard)[:3]) or 'it does not say why'}",
            expected="an engine",
            hint="check the graph for this target: medattn-edge lint, or a larger --workspace",
        )
    if timings is not None and settings.timing_cache is not None:
        with replacing(settings.timing_cache) as file:
            file.write_bytes(bytes(timings.serialize()))
    monitor.phases.done()
    return Engine(bytes(plan), trt.__version__, tuple(warnings(heard)[:20]))


def _check_parser(parser: Any, parsed: bool, warned: list[str], source: Source) -> None:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    messages = [f"{_where(source.path, one.node_name(), one.node_operator())}{_desc(one.desc())}" for one in errors]
    if not parsed or messages:
        raise BackendError(
            f"the parser refuses {source.path.name}: {'; '.join(messages) or 'it does not say why'}",
            expected="operators and types that it takes",
            hint="check the graph for this target: medattn-edge lint",
        )
    changed = [text for text in warned if any(word in text.lower() for word in _CHANGED)]
    if changed:
        raise BackendError(
            f"the parser would compute something else: {_unsigned(source.path)}{changed[0]}",
            expected="symmetric INT8: every zero point int8 and 0",
            hint="quantise for this target: medattn-edge calibrate NET.onnx SCAN -o NET.int8.onnx --profile tensorrt",
        )


def _desc(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it does not say why"]
    line = lines[1] if lines[0].startswith("Invalid Node") and len(lines) > 1 else lines[0]
    return line.split(" In check")[0].removeprefix("Assertion failed: ")


def _graph(path: Path) -> Any:
    """The graph of a file that the parser could read, for what it does not tell; None where onnx is not installed."""
    if find_spec("onnx") is None:
        return None
    import onnx

    return onnx.load(str(path), load_external_data=False).graph


def _where(path: Path, name: str, operator: str) -> str:
    if not name:
        return f"{operator}: " if operator else ""
    graph = _graph(path)
    nodes = [node for node in graph.node if node.name == name] if graph is not None else []
    return _named(nodes[0]) if nodes else f"{operator} {name!r}: "


def _named(node: Any) -> str:
    module = next((entry.value for entry in node.metadata_props if entry.key == _MODULE), "")
    return f"{node.op_type} {node.name!r}{f' of the module {module}' if module else ''}: "


def _unsigned(path: Path) -> str:
    """The first node whose zero point is an unsigned 8-bit initialiser: the warning does not name it."""
    graph = _graph(path)
    if graph is None:
        return ""
    unsigned = {one.name for one in graph.initializer if one.data_type == _UINT8}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and unsigned & set(node.input[2:]):
            return _named(node)
    return ""


def _configure(trt: Any, config: Any, settings: CompileSettings, capabilities: tuple[str, ...]) -> None:
    # FP32 means FP32: TF32 would be 10 bits of mantissa under the same name.
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.workspace_mib is not None:
        if settings.workspace_mib < 1:
            raise UsageError(
                f"a workspace of {settings.workspace_mib} MiB", expected="1 or more", hint="--workspace 1024"
            )
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * 2**20)
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)


def _free_the_batch(builder: Any, config: Any, source: Source) -> None:
    patch = tuple(source.manifest.inputs["image"][1:])
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((batch, *patch) for batch in BATCHES))
    config.add_optimization_profile(profile)


def _timing_cache(config: Any, path: Path | None) -> Any:
    """The timings of earlier builds, which this one uses and extends; None when none were asked for."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            f"{path} holds no timings of this GPU and this version",
            expected="a file that an earlier build wrote here, or no file",
            hint=f"rm {quoted(path)}",
        )
    return cache
