"""Variables that change what a CPU computes with: what they are said to do, and what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest

from medattn_edge.host import hardware
from medattn_edge.host.computed_precision import described
from medattn_edge.host.cores import CoreLimits
from medattn_edge.host.cpu_settings import CAPS, CpuSetting, cpu_settings, onednn_cpu, quota_effect
from medattn_edge.host.diagnosis import HostReport, problems
from medattn_edge.host.hardware import FLAGS, Cpu

EVERYTHING = tuple(name for name in FLAGS if name.startswith(("av", "am")))
XEON = Cpu("a Xeon with AMX", "x86_64", EVERYTHING, 8, 16)
CORE = Cpu("a Core i5", "x86_64", ("avx2", "avx_vnni"), 6, 12)
ARM = Cpu("a Neoverse", "aarch64", ("asimd", "dotprod"), 4, 4)
FOUR = CoreLimits(8, tuple(range(4)), 4, None)


def told(cpu: Cpu = XEON, cores: CoreLimits | None = FOUR, **environment: str) -> CpuSetting:
    """What is said of the one variable of an environment."""
    [setting] = cpu_settings({"PATH": "/bin", **environment}, cpu, cores)
    return setting


def test_an_environment_that_says_nothing_is_said_nothing_of() -> None:
    assert cpu_settings({"PATH": "/bin", "ONEDNN_MAX_CPU_ISA": "", "KMP_AFFINITY": ""}, XEON, FOUR) == ()
    assert onednn_cpu({}, XEON) == XEON


@pytest.mark.parametrize(
    ("value", "int8"),
    [
        ("avx2", "int8 (7-bit weights), slower: no VNNI"),
        ("AVX2_VNNI", "int8 (VNNI)"),
        ("AVX512_CORE", "int8 (7-bit weights), slower: no VNNI"),
        ("AVX512_CORE_VNNI", "int8 (VNNI)"),
        ("AVX512_CORE_AMX", "int8 (AMX)"),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_cap_is_told_with_what_openvino_loses_by_it(variable: str, value: str, int8: str) -> None:
    setting = told(**{variable: value})
    capped = onednn_cpu({variable: value}, XEON)
    lost = set(XEON.instruction_sets) - set(capped.instruction_sets)
    assert described("openvino", "cpu", capped)["int8"] == int8
    assert all(name in setting.effect for name in lost)
    assert ("overflow" in setting.effect) == ("no VNNI" in int8)
    assert (setting.runtimes, setting.hint) == ((("openvino", "torch"), f"unset {variable}") if lost else ((), ""))


def test_every_cap_leaves_no_more_than_the_one_it_is_below() -> None:
    left = {name: set(onednn_cpu({"ONEDNN_MAX_CPU_ISA": name}, XEON).instruction_sets) for name in CAPS}
    below = ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "ALL")
    assert all(left[one] <= left[next_one] for one, next_one in pairwise(below))
    assert left["ALL"] == set(EVERYTHING)


def test_the_name_that_onednn_has_today_counts_before_its_older_one() -> None:
    both = {"DNNL_MAX_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    [setting] = cpu_settings(both, XEON, FOUR)
    assert setting.variable == "ONEDNN_MAX_CPU_ISA"
    assert "avx512f" in onednn_cpu(both, XEON).instruction_sets


@pytest.mark.parametrize(("cpu", "value"), [(XEON, "AVX512"), (XEON, "fast"), (ARM, "AVX2")])
def test_a_cap_that_onednn_ignores_is_told_as_one_that_does_nothing(cpu: Cpu, value: str) -> None:
    setting = told(cpu, ONEDNN_MAX_CPU_ISA=value)
    assert (setting.runtimes, setting.effect[:7], setting.hint) == ((), "nothing", "unset ONEDNN_MAX_CPU_ISA")
    assert onednn_cpu({"ONEDNN_MAX_CPU_ISA": value}, cpu) == cpu


def test_a_cap_above_the_cpu_changes_nothing_and_is_no_problem() -> None:
    setting = told(CORE, ONEDNN_MAX_CPU_ISA="AVX2_VNNI")
    assert (setting.runtimes, setting.hint) == ((), "")


def test_a_mode_that_lets_fp32_be_something_else_is_told_and_the_exact_one_is_not() -> None:
    assert cpu_settings({"ONEDNN_DEFAULT_FPMATH_MODE": "strict"}, XEON, FOUR) == ()
    setting = told(DNNL_DEFAULT_FPMATH_MODE="bf16")
    assert "FP32 in BF16" in setting.effect
    assert setting.hint == "unset DNNL_DEFAULT_FPMATH_MODE"


@pytest.mark.parametrize(
    ("variable", "value", "words", "runtimes"),
    [
        ("OMP_NUM_THREADS", "1", "(4 here)", ("torch",)),
        ("MKL_NUM_THREADS", "1", "--threads", ("torch",)),
        ("OMP_THREAD_LIMIT", "2", "2 of the 4", ("torch",)),
        ("OMP_THREAD_LIMIT", "16", "no fewer", ("torch",)),
        ("OMP_PROC_BIND", "close", "cores", ("torch",)),
        ("OMP_WAIT_POLICY", "active", "spin", ("torch",)),
        ("KMP_BLOCKTIME", "0", "Intel's OpenMP", ()),
        ("ATEN_CPU_CAPABILITY", "avx2", "torch's own kernels", ("torch",)),
        ("MKL_ENABLE_INSTRUCTIONS", "AVX2", "matrix products", ("torch",)),
        ("ONEDNN_CPU_ISA_HINTS", "PREFER_YMM", "256 bits", ("openvino", "torch")),
    ],
)
def test_a_variable_is_told_with_whom_it_concerns(
    variable: str, value: str, words: str, runtimes: tuple[str, ...]
) -> None:
    setting = told(**{variable: value})
    assert (setting.variable, setting.value, setting.runtimes) == (variable, value, runtimes)
    assert words in setting.effect
    assert "onnxruntime" not in setting.runtimes  # no variable caps MLAS


@pytest.mark.parametrize(
    ("quota", "words"), [(None, ""), (4.0, ""), (9.0, ""), (2.5, "commands take 2 of 4 cores"), (0.25, "75%")]
)
def test_a_quota_is_told_where_it_bounds_what_the_affinity_leaves(quota: float | None, words: str) -> None:
    cores = replace(FOUR, cpu_quota=quota)
    effect = quota_effect(cores)
    assert words in effect
    assert bool(effect) == bool(words)
    found = problems(HostReport(XEON, (), {}, {}, cores=cores))
    assert [f"the cgroup gives {quota:g} CPUs" in one.found for one in found] == ([True] if words else [])


KERNELS = """
import sys
from medattn_edge.backends.openvino.library import imported
import numpy as np
ov = imported()
from openvino import opset13 as op
x = op.parameter([1, 16, 16, 16], np.float32)
y = op.convolution(x, op.constant(np.ones((16, 16, 3, 3), np.float32)), [1, 1], [1, 1], [1, 1], [1, 1])
model = ov.Core().compile_model(ov.Model([op.relu(y)], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
kinds = (node.get_rt_info() for node in model.get_runtime_model().get_ops())
sys.stdout.write(" ".join(str(one["primitiveType"].value) for one in kinds if one["layerType"].value == "Convolution"))
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.skipif("avx512f" not in hardware.cpu().instruction_sets, reason="nothing to cap: no AVX-512")
def test_openvino_obeys_a_cap_as_it_is_told_here() -> None:
    def kernel(**environment: Any) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.endswith("MAX_CPU_ISA")}
        done = subprocess.run(
            [sys.executable, "-c", KERNELS], env=clean | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "avx512" in kernel(DNNL_MAX_CPU_ISA="AVX2", ONEDNN_MAX_CPU_ISA="AVX512_CORE")
    assert "avx2" in kernel(DNNL_MAX_CPU_ISA="avx2")
