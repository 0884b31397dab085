"""What tests of several rooms stand on: phantoms, peers, factories, and programs that are killed on purpose.

Imported before anything else by tests/conftest.py, so that what is set here holds for every test.
"""

import os
import sys
from pathlib import Path

# The networks are too small for a second thread to help, and on a busy machine it hurts; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where images set it, each of the thousands of processes that tests start would compile the whole program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# OpenVINO and NNCF report to a web service when they are imported, unless this package is missing; no test may.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# ONNX Runtime does from the start, unless this says no; tests import it before our package says so.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

ROOT = Path(__file__).parents[2]
