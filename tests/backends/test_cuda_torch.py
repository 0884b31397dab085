"""What a torch session tells of a GPU: how long it took, and that it is gone. What needs one is marked."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.backends import Options
from medattn_edge.backends.cuda.memory import GpuLost
from medattn_edge.backends.tensorrt.library import has_gpu
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.backends.torch.session import TorchSession
from medattn_edge.errors import BackendError
from medattn_edge.exporters import random_patches
from tests.support.networks import SMALL, random_network

PATCHES = np.zeros((1, 1, 32, 32), np.float32)


def failing(code: Any) -> TorchSession:
    """A session whose network fails as torch fails on a GPU, with CUDA's number of the error."""

    def fail(image: torch.Tensor) -> torch.Tensor:
        error = torch.AcceleratorError("CUDA error: something\nCUDA kernel errors might be reported later")
        if code is not None:
            error.error_code = code
        raise error

    return TorchSession(SMALL, "cpu", fail)


def test_on_a_cpu_there_is_no_time_of_a_device():
    session = EagerSession(random_network(), SMALL)
    session.run(PATCHES)
    session.run_with_attention(PATCHES)
    assert session.device_ms is None


@pytest.mark.parametrize("code", [700, 719, 710])
def test_an_error_that_takes_the_gpu_says_so(code):
    with pytest.raises(GpuLost, match="cannot use the GPU any more") as lost:
        failing(code).run(PATCHES)
    assert "restart the process" in lost.value.hint


@pytest.mark.parametrize("code", [None, 2, 46])
def test_any_other_error_leaves_the_process_its_gpu(code):
    with pytest.raises(BackendError, match="CUDA error: something") as failed:
        failing(code).run(PATCHES)
    assert not isinstance(failed.value, GpuLost)


@pytest.mark.gpu
@pytest.mark.skipif(
    not (has_gpu() and torch.cuda.is_available()), reason="this host has no NVIDIA GPU that this torch can use"
)
def test_on_a_gpu_the_time_is_the_devices_own():
    session = EagerSession(random_network(), SMALL, Options(device="cuda:0"))
    patches = random_patches(SMALL, 4)
    for run in (session.run, session.run_with_attention):
        run(patches)
        start = time.perf_counter()
        run(patches)
        around = (time.perf_counter() - start) * 1e3
        assert session.device_ms is not None
        assert 0 < session.device_ms <= around
