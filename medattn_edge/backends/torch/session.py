"""What the two torch backends share: a callable on a torch device, run under inference mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from medattn_edge.backends.cuda.memory import cuda_error, lost_by
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError, HostError
from medattn_edge.spec import ModelSpec


class TorchSession(Session):
    """A session around functions of one tensor: `logits`, and `attention` that returns (logits, maps)."""

    def __init__(
        self,
        spec: ModelSpec,
        device: str,
        logits: Callable[..., Any],
        attention: Callable[..., Any] | None = None,
        **session: Any,
    ) -> None:
        super().__init__(spec, **session)
        self._device, self._logits, self._attention = device, logits, attention
        self.device_ms: float | None = None

    def run(self, patches: Patches) -> Patches:
        """As `Session.run`, with the time on a GPU in `device_ms`.

        It is that of the last run, from before the copy of the patches to the GPU until after the copy of the answers
        back, by CUDA events on torch's stream; of all parts, when it is run in several.
        """
        self.device_ms = None
        return super().run(patches)

    def run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        """As `Session.run_with_attention`; device_ms as in `run`."""
        self.device_ms = None
        return super().run_with_attention(patches)

    def _run(self, patches: Patches) -> Patches:
        [logits] = self._call(self._logits, patches)
        return logits

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        if self._attention is None:
            return super()._run_with_attention(patches)
        logits, maps = self._call(self._attention, patches)
        return logits, maps

    def _call(self, function: Callable[..., Any], patches: Patches) -> list[Patches]:
        import torch

        try:
            with torch.inference_mode():
                if self._device == "cpu":
                    return self._answers(function, patches)
                with torch.cuda.device(self._device):
                    event = partial(torch.cuda.Event, enable_timing=True)
                    start, end = event(), event()
                    start.record()
                    answers = self._answers(function, patches)
                    end.record()
                    torch.cuda.synchronize(self._device)
                    self.device_ms = (self.device_ms or 0.0) + start.elapsed_time(end)
                    return answers
        except RuntimeError as error:
            raise _translated(error, self._device) from error

    def _answers(self, function: Callable[..., Any], patches: Patches) -> list[Patches]:
        import torch

        # A tensor over memory that must not be written to is a warning in torch: that memory is copied.
        image = torch.from_numpy(np.require(patches, requirements=["W"]))
        answer = function(image.to(self._device))
        tensors = [answer] if isinstance(answer, torch.Tensor) else answer
        return [tensor.float().cpu().numpy() for tensor in tensors]


def _translated(error: RuntimeError, device: str) -> BackendError:
    """torch tells the number of an error of CUDA's, and some of these take the GPU from the process."""
    lost = lost_by(getattr(error, "error_code", None))
    if lost:
        return cuda_error("torch", lost)
    return BackendError(
        f"torch failed on {device}: {_reason(error)}",
        expected="a run of the network",
        hint="a smaller --batch, or --device cpu",
    )


def _reason(error: RuntimeError) -> str:
    """The line that says why: the first, or, after the trace of a TorchScript network, the last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    inner = [line for line in lines if line.startswith("RuntimeError: ")]
    return inner[-1].removeprefix("RuntimeError: ") if inner else lines[0]


def prepare_torch(options: Options) -> dict[str, Any]:
    """Set the threads, check the device, and say what will run where.

    Full FP32 is asked for on a GPU too: TF32 would move the reference itself.
    """
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device != "cpu":
        index = int(options.device.split(":")[1])
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise HostError(
                f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices, not {options.device}",
                expected="the device that was asked for",
                hint="--device cpu, or install a CUDA build of torch",
            )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return {"device": options.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
