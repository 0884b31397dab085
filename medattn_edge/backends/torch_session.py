"""What the two torch backends share: a callable on a torch device, run under inference mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError, EnvironmentProblem
from medattn_edge.spec import ModelSpec

if TYPE_CHECKING:
    import torch


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

    def _run(self, patches: Patches) -> Patches:
        return self._numpy(self._call(self._logits, patches))

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        if self._attention is None:
            return super()._run_with_attention(patches)
        logits, maps = self._call(self._attention, patches)
        return self._numpy(logits), self._numpy(maps)

    def _call(self, function: Callable[..., Any], patches: Patches) -> Any:
        import torch

        try:
            with torch.inference_mode():
                # A tensor over memory that must not be written to is a warning in torch: that memory is copied.
                image = torch.from_numpy(np.require(patches, requirements=["W"]))
                answer = function(image.to(self._device))
                if self._device != "cpu":
                    torch.cuda.synchronize(self._device)
                return answer
        except RuntimeError as error:
            raise BackendError(
                f"torch failed on {self._device}: {_reason(error)}",
                expected="a run of the network",
                hint="a smaller --batch, or --device cpu",
            ) from error

    @staticmethod
    def _numpy(tensor: torch.Tensor) -> Patches:
        answer: Patches = tensor.float().cpu().numpy()
        return answer


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
            raise EnvironmentProblem(
                f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices, not {options.device}",
                expected="the device that was asked for",
                hint="--device cpu, or install a CUDA build of torch",
            )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return {"device": options.device, "threads": torch.get_num_threads(), "torch": torch.__version__}
