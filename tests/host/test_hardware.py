"""What the host says of itself: an x86 with VNNI, one without, and an ARM."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medattn_edge.host import hardware
from medattn_edge.host.hardware import Cpu, isa_class, parse_cpuinfo, parse_driver_version


def x86(index: int, core: int, flags: str) -> str:
    return (
        f"processor\t: {index}\nmodel name\t: Some Xeon\nphysical id\t: 0\ncore id\t\t: {core}\nflags\t\t: {flags}\n\n"
    )


VNNI = "".join(x86(index, index // 2, "fpu avx2 avx512f avx512_vnni avx512_bf16 amx_int8") for index in range(4))
PLAIN = "".join(x86(index, index, "fpu sse4_2 avx avx2") for index in range(2))
ARM = "".join(
    f"processor\t: {index}\nFeatures\t: fp asimd asimddp i8mm bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n"
    for index in range(3)
)
RASPBERRY = "processor\t: 0\nFeatures\t: fp asimd\n\nHardware\t: BCM2835\nmodel name\t: Raspberry Pi\n"


def test_an_x86_with_vnni_counts_its_cores_once() -> None:
    found = parse_cpuinfo(VNNI, "x86_64")
    flags = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    assert found == Cpu("Some Xeon", "x86_64", flags, physical_cores=2, logical_cores=4)
    assert isa_class(found) == "x86-vnni"


def test_an_x86_without_vnni() -> None:
    found = parse_cpuinfo(PLAIN, "x86_64")
    assert (found.instruction_sets, isa_class(found)) == (("avx2",), "x86")


@pytest.mark.parametrize("flag", ["avx_vnni", "avx512_vnni"])
def test_each_form_of_vnni_counts(flag: str) -> None:
    assert isa_class(parse_cpuinfo(x86(0, 0, f"avx2 {flag}"), "x86_64")) == "x86-vnni"


def test_an_arm_is_told_in_the_words_of_arm() -> None:
    found = parse_cpuinfo(ARM, "aarch64")
    assert found.instruction_sets == ("asimd", "dotprod", "i8mm", "bf16")
    assert (found.physical_cores, found.logical_cores) == (3, 3)
    assert "0xd42" in found.model
    assert isa_class(found) == "arm"


def test_fields_after_the_processors_count_too() -> None:
    found = parse_cpuinfo(RASPBERRY, "aarch64")
    assert (found.model, found.logical_cores, found.instruction_sets) == ("Raspberry Pi", 1, ("asimd",))


def test_a_host_that_says_nothing_is_an_x86_to_be_careful_with() -> None:
    found = parse_cpuinfo("", "x86_64", cores=6)
    assert (found.instruction_sets, found.logical_cores, isa_class(found)) == ((), 6, "x86")


def test_this_host_has_a_cpu() -> None:
    found = hardware.cpu()
    assert found.model
    assert found.logical_cores >= found.physical_cores >= 1
    assert set(found.instruction_sets) <= set(hardware.FLAGS)


def test_gpus_are_a_list_that_may_be_empty() -> None:
    """In a process of its own: asking the driver must not touch the one that runs the tests."""
    asked = "from medattn_edge.host.hardware import gpus; print(all(g.compute_capability[:2] == 'sm' for g in gpus()))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\n", "550.90.07"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)\n", "580.65.06"),
        ("", ""),
    ],
)
def test_the_drivers_version(text: str, version: str) -> None:
    assert parse_driver_version(text) == version
