"""The clocks, power and temperature of this host's NVIDIA GPUs: what a time measured on one must stand beside.

A GPU that is hot, short of power or asleep runs at other clocks, and its times are those of another GPU. Asked of the
driver's own library through NVIDIA's module pynvml (the extra `gpu`), which makes no CUDA context and changes nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medattn_edge.installation import install_line

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

    Attributes:
        index: as nvidia-smi counts, which is not how CUDA counts where there are several GPUs.
        name: as the driver says it.
        sm_mhz: the clock of its multiprocessors.
        sm_max_mhz: the highest that it can have.
        memory_mhz: the clock of its memory.
        memory_max_mhz: the highest that it can have.
        power_w: drawn now.
        power_limit_w: that it may draw.
        temperature_c: of the chip.
        slowed_by: of REASONS.
    """

    index: int
    name: str
    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    memory_max_mhz: int | None
    power_w: float | None
    power_limit_w: float | None
    temperature_c: int | None
    slowed_by: tuple[str, ...] | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "slowed_by": None if self.slowed_by is None else list(self.slowed_by)}


@dataclass(frozen=True)
class ClockReading:
    """The GPUs at one moment.

    Attributes:
        gpus: every NVIDIA GPU that the driver tells of.
        why: there is none to tell of, in a sentence; empty when there is one.
    """

    gpus: tuple[Clocks, ...]
    why: str = ""


def clocks() -> ClockReading:
    """Of every NVIDIA GPU now; without one, or without what asks it, the reason."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return ClockReading((), f"nvidia-ml-py is not installed: {install_line('gpu')}")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return ClockReading((), f"the NVIDIA driver does not answer: {error}")
    try:
        gpus = read(nvml)
    finally:
        nvml.nvmlShutdown()
    return ClockReading(gpus, "" if gpus else "the NVIDIA driver tells of no GPU")


def record() -> list[dict[str, Any]]:
    """`clocks` as JSON values. Take it while the GPU is at work or at once after: idle, its clocks fall."""
    return [one.to_json() for one in clocks().gpus]


def remarks(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """What two records, taken at the ends of a run at work, say against its times: one sentence each.

    A GPU that was slowed by heat or power, or whose clocks fell by more than a tenth.
    """
    sentences = []
    first = {one["index"]: one for one in before}
    for one in after:
        then, name = first.get(one["index"], {}), f"GPU {one['index']} ({one['name']})"
        reasons = [*(then.get("slowed_by") or ()), *(one["slowed_by"] or ())]
        slowed = [reason for reason in dict.fromkeys(reasons) if reason not in _HARMLESS]
        if slowed:
            sentences.append(f"{name} was slowed: {', '.join(slowed)}")
        for key, label in (("sm_mhz", "SM"), ("memory_mhz", "memory")):
            was, now = then.get(key), one[key]
            if was and now and now < _FELL * was:
                sentences.append(f"the {label} clock of {name} fell from {was} to {now} MHz")
    return sentences


def parse_reasons(bits: int) -> tuple[str, ...]:
    """The words for NVML's bits; a bit that is not known is given as a number."""
    known = [word for bit, word in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return (*known, *([f"unknown ({rest:#x})"] if rest else []))


def read(nvml: Any) -> tuple[Clocks, ...]:
    """The GPUs that pynvml tells of, once it is initialised."""
    count = _ask(nvml, "nvmlDeviceGetCount") or 0
    gpus = (_device(nvml, index) for index in range(count))
    return tuple(one for one in gpus if one is not None)


def _device(nvml: Any, index: int) -> Clocks | None:
    def ask(function: str, *arguments: Any) -> int | None:
        value: int | None = _ask(nvml, function, device, *arguments)
        return value

    device = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
    if device is None:
        return None
    # Its name since driver 535; before, it was called the other, which newer drivers may not have.
    bits = ask("nvmlDeviceGetCurrentClocksEventReasons")
    bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons") if bits is None else bits
    return Clocks(
        index=index,
        name=_ask(nvml, "nvmlDeviceGetName", device) or "",
        sm_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        sm_max_mhz=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        memory_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        memory_max_mhz=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        power_w=_watts(ask("nvmlDeviceGetPowerUsage")),
        power_limit_w=_watts(ask("nvmlDeviceGetEnforcedPowerLimit")),
        temperature_c=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        slowed_by=None if bits is None else parse_reasons(bits),
    )


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """What a function says; None when it says that it cannot, as for a driver that is older than the function."""
    call: Callable[..., Any] = getattr(nvml, function)
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
