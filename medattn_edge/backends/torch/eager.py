"""The eager PyTorch network of a checkpoint: on the CPU in FP32 it is the reference of every agreement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medattn_edge.backends.session import Backend, Options, Patches, Session
from medattn_edge.backends.torch.session import TorchSession, prepare_torch
from medattn_edge.spec import ModelSpec

if TYPE_CHECKING:
    from medattn_edge.models.network import SegmentationNetwork


class EagerSession(TorchSession):
    """A session around a network in memory, which it moves to its device and puts in evaluation mode.

    It takes any size that is a multiple of the spec's stride.
    """

    def __init__(self, network: SegmentationNetwork, spec: ModelSpec, options: Options | None = None) -> None:
        options = options or Options()
        facts = {"backend": "eager", **prepare_torch(options)}
        self._network = network = network.to(options.device).eval()
        super().__init__(
            spec,
            options.device,
            network,
            network.forward_attention,
            fixed_patch=False,
            attention_names=network.attention_names,
            facts=facts,
        )

    def run_in_fp64(self, patches: Patches) -> npt.NDArray[np.float64] | None:
        """See `Session.run_in_fp64`; None for a network that insists on FP32 somewhere."""
        from medattn_edge.backends.torch.fp64 import logits_in_fp64

        self._check(patches)
        return logits_in_fp64(self._network, patches)


def _open(path: Path, options: Options) -> Session:
    from medattn_edge.models import checkpoint

    # A foreign file cannot tell all settings; the spec of what was exported from it can.
    loaded = checkpoint.load(path, config=options.spec.config if options.spec else None)
    return EagerSession(loaded.network, options.spec or loaded.spec, options)


BACKEND = Backend(
    name="eager",
    suffixes=(".safetensors", ".pth", ".pt", ".pkl", ".ckpt", ".tar", ".model"),
    extra="torch",
    packages=("torch", "safetensors"),
    open=_open,
)
