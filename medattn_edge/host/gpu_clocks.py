"""The clocks, power and temperature of this host's NVIDIA GPUs: what a time measured on one must stand beside.

A GPU that is hot, short of power or asleep runs at other clocks, and its times are those of another GPU. Asked of the
driver's own library (NVML), which makes no CUDA context and changes nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_SM, _MEMORY, _GPU_TEMPERATURE = 1, 2, 0  # nvmlClockType_t, nvmlTemperatureSensors_t
_NAME_BYTES = 96
# nvmlClocksEventReasons: the bits of why the clocks are not higher.
REASONS = {
    0x1: "idle",
    0x2: "clocks set by an administrator",
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "in step with other GPUs",
    0x20: "heat, slowed by software",
    0x40: "heat, slowed by hardware",
    0x80: "power brake from outside",
    0x100: "clocks set for a display",
}
_HARMLESS = {REASONS[0x1], REASONS[0x2], REASONS[0x100]}  # it would be as fast in the next run
_FELL = 0.9  # of the clock of before: less than the steps of a GPU at work


@dataclass(frozen=True)
class Clocks:
    """One GPU at one moment; None is what it does not tell, as boards with memory shared with the CPU often do not.

    index: as nvidia-smi counts, which is not how CUDA counts where there are several GPUs. slowed_by: of REASONS.
    """

    index: int
    name: str
    sm_mhz: int | None
    sm_most_mhz: int | None
    memory_mhz: int | None
    memory_most_mhz: int | None
    power_w: float | None
    power_limit_w: float | None
    temperature_c: int | None
    slowed_by: tuple[str, ...] | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "slowed_by": None if self.slowed_by is None else list(self.slowed_by)}


def clocks() -> tuple[Clocks, ...]:
    """Of every NVIDIA GPU now; empty without one, or when its driver does not answer."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        with _started(library):
            return read(library)
    except (OSError, AttributeError):  # no driver; or one without the functions asked for
        return ()


def record() -> list[dict[str, Any]]:
    """`clocks` as JSON values. Take it while the GPU is at work or at once after: idle, its clocks fall."""
    return [one.to_json() for one in clocks()]


def remarks(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """What two records, taken at the ends of a run at work, say against its times: one sentence each.

    A GPU that was slowed by heat or power, or whose clocks fell by more than a tenth.
    """
    said = []
    first = {one["index"]: one for one in before}
    for one in after:
        then, name = first.get(one["index"], {}), f"GPU {one['index']} ({one['name']})"
        reasons = [*(then.get("slowed_by") or ()), *(one["slowed_by"] or ())]
        slowed = [reason for reason in dict.fromkeys(reasons) if reason not in _HARMLESS]
        if slowed:
            said.append(f"{name} was slowed: {', '.join(slowed)}")
        for key, label in (("sm_mhz", "SM"), ("memory_mhz", "memory")):
            was, now = then.get(key), one[key]
            if was and now and now < _FELL * was:
                said.append(f"the {label} clock of {name} fell from {was} to {now} MHz")
    return said


def parse_reasons(bits: int) -> tuple[str, ...]:
    """The words for NVML's bits; a bit that is not known is told as a number."""
    known = [word for bit, word in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return (*known, *([f"unknown ({rest:#x})"] if rest else []))


@contextmanager
def _started(library: ctypes.CDLL) -> Iterator[None]:
    if library.nvmlInit_v2():
        raise OSError("the driver does not answer")
    try:
        yield
    finally:
        library.nvmlShutdown()


def read(library: ctypes.CDLL) -> tuple[Clocks, ...]:
    """The GPUs that a started NVML tells of."""
    count = _number(library, "nvmlDeviceGetCount_v2") or 0
    found = (_device(library, index) for index in range(count))
    return tuple(one for one in found if one is not None)


def _device(library: ctypes.CDLL, index: int) -> Clocks | None:
    device, name = ctypes.c_void_p(), ctypes.create_string_buffer(_NAME_BYTES)
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)):
        return None
    library.nvmlDeviceGetName(device, name, ctypes.c_uint(_NAME_BYTES))
    bits = _number(library, _reasons_function(library), device, kind=ctypes.c_ulonglong)
    return Clocks(
        index=index,
        name=name.value.decode("utf-8", "replace"),
        sm_mhz=_number(library, "nvmlDeviceGetClockInfo", device, ctypes.c_int(_SM)),
        sm_most_mhz=_number(library, "nvmlDeviceGetMaxClockInfo", device, ctypes.c_int(_SM)),
        memory_mhz=_number(library, "nvmlDeviceGetClockInfo", device, ctypes.c_int(_MEMORY)),
        memory_most_mhz=_number(library, "nvmlDeviceGetMaxClockInfo", device, ctypes.c_int(_MEMORY)),
        power_w=_watts(_number(library, "nvmlDeviceGetPowerUsage", device)),
        power_limit_w=_watts(_number(library, "nvmlDeviceGetEnforcedPowerLimit", device)),
        temperature_c=_number(library, "nvmlDeviceGetTemperature", device, ctypes.c_int(_GPU_TEMPERATURE)),
        slowed_by=None if bits is None else parse_reasons(bits),
    )


def _reasons_function(library: ctypes.CDLL) -> str:
    """Its name since driver 535; before, it was called the other, which newer drivers may not have."""
    new = "nvmlDeviceGetCurrentClocksEventReasons"
    return new if hasattr(library, new) else "nvmlDeviceGetCurrentClocksThrottleReasons"


def _number(library: ctypes.CDLL, name: str, *arguments: Any, kind: Any = ctypes.c_uint) -> int | None:
    """What a function writes to its last argument; None when it says that it cannot."""
    found = kind()
    return None if getattr(library, name)(*arguments, ctypes.byref(found)) else int(found.value)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
