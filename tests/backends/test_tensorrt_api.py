"""Every name of TensorRT's Python interface that our source uses is one that the library has.

Read from the source itself: a new use is held to this at once. TensorRT-RTX is the module that can be imported without
a GPU; TensorRT 10 and 11 have the same interface, and cannot be installed everywhere: the names of theirs that we use
are listed here, and what only RTX has stands apart, so that the path of TensorRT may not use it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from medattn_edge.backends import tensorrt

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

SOURCES = {path.name: path for path in Path(next(iter(tensorrt.__path__))).glob("*.py")}
# What a variable of ours holds; in rtx.py `config` is of the runtime, elsewhere of the builder.
HOLDS = {
    "builder": "Builder",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "context": "IExecutionContext",
    "_runtime": "Runtime",
    "_cache": "IRuntimeCache",
}
IN_FILE = {
    "rtx.py": {"config": "IRuntimeConfig", "engine": "ICudaEngine"},
    "session.py": {"engine": "ICudaEngine"},
}
OURS = {"data", "version", "warnings"}  # of `build.Engine`, which is called `engine` as well
# As the references of TensorRT 10 and of TensorRT 11 (Python API) have them.
DOCUMENTED = {
    "Builder": {
        "max_threads",
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    },
    "OnnxParser": {"parse_from_file", "num_errors", "get_error"},
    "IBuilderConfig": {
        "add_optimization_profile",
        "clear_flag",
        "create_timing_cache",
        "hardware_compatibility_level",
        "progress_monitor",
        "set_memory_pool_limit",
        "set_timing_cache",
    },
    "IOptimizationProfile": {"set_shape"},
    "ITimingCache": {"serialize"},
    "ICudaEngine": {
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_shape",
        "num_io_tensors",
    },
    "IExecutionContext": {"execute_async_v3", "set_input_shape", "set_tensor_address"},
    "Runtime": {"deserialize_cuda_engine", "engine_host_code_allowed"},
    "module": {
        "Builder",
        "BuilderFlag.TF32",
        "DataType.FLOAT",
        "HardwareCompatibilityLevel.AMPERE_PLUS",
        "ILogger",
        "ILogger.Severity.WARNING",
        "IProgressMonitor",
        "MemoryPoolType.WORKSPACE",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser",
        "Runtime",
        "__version__",
    },
}
# TensorRT for RTX alone; `build.py` sets the capabilities only where some are asked for, which TensorRT refuses before.
ONLY_RTX = {
    "IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"},
    "module": {"ComputeCapability"},
}


def uses() -> Iterator[tuple[str, str, str]]:
    """File, class (or `module`), name: of every attribute that our source takes from a thing of the library."""
    for name, path in SOURCES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            words = ast.unparse(node).split(".")
            if words[0] == "trt" and id(node) not in inner:  # the whole of trt.A.B, once
                yield name, "module", ".".join(words[1:]).split(".__members__")[0].removesuffix(".__init__")
            held = words[-2] if words[:-1] in ([words[-2]], ["self", words[-2]]) else ""
            kind = IN_FILE.get(name, {}).get(held) or HOLDS.get(held)
            if kind and words[-1] not in OURS:
                yield name, kind, words[-1]


def test_the_uses_are_found() -> None:
    found = {(kind, name) for _, kind, name in uses()}
    assert {
        ("IExecutionContext", "execute_async_v3"),
        ("Runtime", "engine_host_code_allowed"),
        ("IRuntimeCache", "serialize"),
        ("module", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"),
        ("IBuilderConfig", "progress_monitor"),
    } <= found
    assert {kind for kind, _ in found} == {*DOCUMENTED, "IRuntimeConfig", "IRuntimeCache"}


@pytest.mark.parametrize("use", sorted(set(uses())), ids=" ".join)
def test_a_name_that_our_source_uses_is_one_of_the_library(use: tuple[str, str, str]) -> None:
    _, kind, name = use
    place = trt if kind == "module" else getattr(trt, kind)
    for word in name.split("."):
        assert hasattr(place, word), f"{kind} has no {name}"
        place = getattr(place, word)


def test_what_tensorrt_itself_is_asked_for_is_documented_for_10_and_11() -> None:
    used = {(kind, name) for file, kind, name in uses() if file != "rtx.py"}
    documented = {(kind, name) for kind, names in DOCUMENTED.items() for name in names}
    special = {(kind, name) for kind, names in ONLY_RTX.items() for name in names}
    assert used - documented == special  # nothing else, and the exceptions are still there
    assert documented <= {(kind, name) for _, kind, name in uses()}  # no name that nobody uses


def test_the_functions_of_what_the_library_calls_back_have_its_names() -> None:
    for base, names in {
        "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
        "ILogger": ("log",),
    }.items():
        assert all(hasattr(getattr(trt, base), name) for name in names)
