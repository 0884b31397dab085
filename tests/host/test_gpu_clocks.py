"""What a host's GPUs say of their clocks: read from a stand-in for NVIDIA's library, and from this host as it is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from medattn_edge.backends.tensorrt.library import has_gpu
from medattn_edge.host import gpu_clocks
from medattn_edge.host.gpu_clocks import REASONS, Clocks, parse_reasons, read, remarks
from medattn_edge.installation import install_line

BUSY = Clocks(0, "NVIDIA H100", 1980, 1980, 2619, 2619, 412.5, 700.0, 61, ())


class Nvml:
    """pynvml of one GPU as its manual describes it.

    unsupported: functions that raise NVMLError, as on a Jetson, or as those do that an old driver has not.
    """

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    functions = {  # noqa: RUF012
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: ["the handle"][index],
        "nvmlDeviceGetName": lambda device: "NVIDIA H100",
        "nvmlDeviceGetClockInfo": lambda device, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda device, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetPowerUsage": lambda device: 412500,
        "nvmlDeviceGetEnforcedPowerLimit": lambda device: 700000,
        "nvmlDeviceGetTemperature": lambda device, sensor: {0: 61}[sensor],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda device: 0x4,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: 0x20,
    }

    def __init__(self, unsupported: tuple[str, ...] = ()) -> None:
        self.unsupported = unsupported

    def __getattr__(self, name: str) -> Any:
        if name not in self.functions:
            raise AttributeError(name)

        def function(*arguments: Any) -> Any:
            assert arguments[:1] in ((), (0,), ("the handle",))
            if name in self.unsupported:
                raise self.NVMLError("Not Supported")
            return self.functions[name](*arguments)

        return function


def test_every_name_that_is_asked_for_is_one_of_nvidias():
    pynvml = pytest.importorskip("pynvml", reason="the extra gpu is not installed")
    constants = [name for name in vars(Nvml) if name.startswith("NVML_")]
    assert len(constants) == 3
    for name in constants:
        assert getattr(pynvml, name) == getattr(Nvml, name)
    for name in (*Nvml.functions, "nvmlInit", "nvmlShutdown"):
        assert callable(getattr(pynvml, name)), name
    assert issubclass(pynvml.NVMLError, Exception)


def test_a_gpu_is_told_in_megahertz_watts_and_degrees():
    assert read(Nvml()) == (replace(BUSY, slowed_by=("power limit",)),)


def test_an_older_driver_is_asked_by_the_older_name():
    [found] = read(Nvml(unsupported=("nvmlDeviceGetCurrentClocksEventReasons",)))
    assert found.slowed_by == ("heat, slowed by software",)


def test_what_a_gpu_does_not_tell_is_none_and_not_zero():
    identity = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName")
    names = [name for name in Nvml.functions if name not in identity]
    [found] = read(Nvml(unsupported=tuple(names)))
    assert found == Clocks(0, "NVIDIA H100", *[None] * 8)
    assert read(Nvml(unsupported=("nvmlDeviceGetCount",))) == ()
    assert read(Nvml(unsupported=("nvmlDeviceGetHandleByIndex",))) == ()


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (0x1, ("idle",)),
        (0x48, ("hardware slowdown", "heat, slowed by hardware")),
        (0x1004, ("power limit", "unknown (0x1000)")),
    ],
)
def test_the_reasons_are_words_and_an_unknown_one_is_not_hidden(bits, words):
    assert parse_reasons(bits) == words


def test_a_record_survives_json():
    found = [one.to_json() for one in (replace(BUSY, slowed_by=("idle",)), replace(BUSY, index=1, slowed_by=None))]
    assert json.loads(json.dumps(found)) == found
    assert [one["slowed_by"] for one in found] == [["idle"], None]
    assert found[0]["sm_mhz"] == 1980


def test_a_gpu_that_kept_its_clocks_needs_no_remark():
    before = [replace(BUSY, sm_mhz=1900).to_json()]
    after = [replace(BUSY, slowed_by=("clocks set by an administrator",)).to_json()]
    assert remarks(before, after) == remarks([], []) == []


def test_a_gpu_that_slowed_down_is_told():
    before = [replace(BUSY, slowed_by=("power limit",)).to_json()]
    after = [replace(BUSY, sm_mhz=1200, slowed_by=(REASONS[0x40],)).to_json()]
    assert remarks(before, after) == [
        "GPU 0 (NVIDIA H100) was slowed: power limit, heat, slowed by hardware",
        "the SM clock of GPU 0 (NVIDIA H100) fell from 1980 to 1200 MHz",
    ]


def test_clocks_that_are_not_told_are_not_compared():
    silent = replace(BUSY, sm_mhz=None, memory_mhz=None, slowed_by=None)
    unknown, known = [silent.to_json()], [BUSY.to_json()]
    assert remarks(unknown, known) == remarks(known, unknown) == remarks([], known) == []


@pytest.mark.skipif(has_gpu(), reason="this host has a GPU")
def test_without_a_gpu_there_is_nothing_to_record_but_why():
    found = gpu_clocks.clocks()
    assert found.gpus == ()
    installed = find_spec("pynvml") is not None
    assert ("driver does not answer" if installed else install_line("gpu")) in found.why
    assert gpu_clocks.record() == []


def test_without_the_package_the_reason_says_the_line_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "pynvml.py").write_text("raise ImportError('broken')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert install_line("gpu") in gpu_clocks.clocks().why


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="this host has no NVIDIA GPU with a driver")
def test_a_gpu_of_this_host_tells_its_clocks():
    found = gpu_clocks.record()
    assert found
    assert json.loads(json.dumps(found)) == found
    for one in found:
        assert one["name"]
        assert one["sm_mhz"] is None or 0 < one["sm_mhz"] <= one["sm_max_mhz"]
        assert one["temperature_c"] is None or 0 < one["temperature_c"] < 120
