"""What every test may use: real networks made on the spot, and the published layouts' deterministic weights."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.forms import EVERY_RUN, FORMS, Form, build_form
from tests.support.networks import export_checkpoint, save_checkpoint

VECTORS = Path(__file__).parent / "models" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Any:
    """The module that fills a published layout with deterministic weights."""
    location = importlib.util.spec_from_file_location("published_weights", VECTORS / "weights.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small gated network as a file (tests.support.networks.SMALL); no test may change it."""
    return save_checkpoint(tmp_path_factory.mktemp("small") / "network.safetensors", balanced=True)


@pytest.fixture(scope="session")
def small_artifact(small_checkpoint: Path) -> Path:
    """Its ONNX file, for any batch, with attention maps; no test may change it."""
    return export_checkpoint(small_checkpoint, small_checkpoint.with_name("network.onnx"), attention=True).path


@pytest.fixture(scope="session")
def plain_artifact(small_checkpoint: Path) -> Path:
    """Its ONNX file without attention maps; no test may change it."""
    return export_checkpoint(small_checkpoint, small_checkpoint.with_name("plain.onnx")).path


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Form:
    """Every small form in turn."""
    return FORMS[request.param]


@pytest.fixture
def network(form: Form) -> Any:
    """The form's network."""
    return build_form(form)


def pytest_runtest_setup() -> None:
    """Have torch's exporter collect onnxscript's 600 operators once for all tests, and not again for each export."""
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    if module is not None and not hasattr(module.onnxscript_apis.get_torchlib_ops, "cache_info"):
        module.onnxscript_apis.get_torchlib_ops = functools.cache(module.onnxscript_apis.get_torchlib_ops)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the relatives; what takes longest comes first, and what waits for peers: others compute meanwhile."""
    rare = {name: form for name, form in FORMS.items() if name not in EVERY_RUN}
    for item in items:
        callspec = getattr(item, "callspec", None)
        for value in () if callspec is None else callspec.params.values():
            if (isinstance(value, str) and value in rare) or any(value is form for form in rare.values()):
                item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.path.name != "test_attention_memory.py", item.path.parent.name != "scanner"))
