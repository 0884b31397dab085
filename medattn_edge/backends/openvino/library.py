"""OpenVINO and NNCF, imported without their telemetry: this product never uses the network.

`import openvino` and NNCF's functions report to a web service through the package openvino_telemetry, unasked, and keep
an identity in the home folder. Both do without when that package cannot be imported, which is how they are imported
here; everything of ours takes them from here (probe.py, which reads nothing else of ours, does the same by itself).
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from medattn_edge.errors import HostError, MissingDependency
from medattn_edge.installation import install_line

_TELEMETRY = "openvino_telemetry"


def imported() -> Any:
    """The module openvino; raises MissingDependency, or HostError when it is there and cannot be loaded."""
    return _imported("openvino", "openvino")


def imported_nncf() -> Any:
    """The module nncf; raises as `imported` does, and HostError when it was imported before with telemetry."""
    nncf = _imported("nncf", "calibrate")
    wrapper = importlib.import_module("nncf.telemetry.wrapper")
    if isinstance(wrapper.telemetry, wrapper.NNCFTelemetry):
        raise HostError(
            "this process imported nncf before medattn_edge did, and with its telemetry",
            expected="no connection to any network",
            hint="import it by medattn_edge.backends.openvino.library, or pip uninstall openvino-telemetry",
        )
    return nncf


def _imported(package: str, extra: str) -> Any:
    # None makes every import of it an ImportError, also where something else has imported it already.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingDependency.of_extra(str(error.name), extra) from error
    except (ImportError, OSError) as error:
        raise HostError(
            f"{package} is installed and cannot be loaded: {(str(error).splitlines() or [''])[0]}",
            expected="its shared libraries",
            hint=install_line(extra, again=True),
        ) from error
