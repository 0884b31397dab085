"""What Triton's Python backend runs: our artifact in a session of ours, where Python has numpy 1 and no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends import open_session
from medattn_edge.backends.triton.server import SHA256_PARAMETER
from medattn_edge.errors import HostError, IntegrityError, MedattnError

ARTIFACT_PARAMETER: Final = "medattn_edge_artifact"
THREADS_PARAMETER: Final = "medattn_edge_threads"
SHARED_PARAMETER: Final = "medattn_edge_shared_cores"


class TritonPythonModel:
    """A model as the Python backend loads it; an error of ours in `initialize` keeps it from becoming ready."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact of this version.

        Args:
            args: the backend's own: `model_config` as JSON, `model_repository` and `model_version`.

        Raises:
            HostError: the server's Python has numpy 2.
            IntegrityError: the artifact is not the one that the configuration was written for.
        """
        check_numpy(np.__version__)
        parameters = {name: one["string_value"] for name, one in json.loads(args["model_config"])["parameters"].items()}
        path = Path(args["model_repository"]) / args["model_version"] / parameters[ARTIFACT_PARAMETER]
        check_content(path, parameters[SHA256_PARAMETER])
        self._session = open_session(
            path, threads=int(parameters[THREADS_PARAMETER]), shared_cores=parameters[SHARED_PARAMETER] == "yes"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Every request by itself; what a session refuses is the error of that request alone."""
        import triton_python_backend_utils as backend

        answers = []
        for request in requests:
            patches = backend.get_input_tensor_by_name(request, "image").as_numpy()
            try:
                values = self._outputs(list(request.requested_output_names()), patches)
                tensors = [backend.Tensor(name, value) for name, value in values.items()]
                answers.append(backend.InferenceResponse(output_tensors=tensors))
            except MedattnError as error:
                answers.append(backend.InferenceResponse(error=backend.TritonError(error.message)))
        return answers

    def finalize(self) -> None:
        """Close the session."""
        self._session.close()

    def _outputs(self, names: list[str], patches: Any) -> dict[str, Any]:
        if "attention" not in names:
            return {"logits": self._session.run(patches)}
        logits, maps = self._session.run_with_attention(patches)
        return {name: value for name, value in (("logits", logits), ("attention", maps)) if name in names}


def check_numpy(version: str) -> None:
    """Raise HostError for a numpy with which Triton's Python backend answers nothing, though it calls itself ready."""
    if int(version.split(".", 1)[0]) > 1:
        raise HostError(
            f"numpy {version} in the server's Python: every answer of Triton's Python backend would be empty",
            expected="numpy 1.26",
            hint="pip install numpy==1.26.4",
        )


def check_content(path: Path, sha256: str) -> None:
    """Raise IntegrityError when an artifact is not the one of a hash; reads every byte of it."""
    found = Artifact.read(path).content_sha256
    if found != sha256:
        raise IntegrityError(
            f"{path.name} has the SHA-256 {found[:16]}...",
            expected=f"{sha256[:16]}..., for which the configuration was written",
            hint="medattn-edge serve write ARTIFACT -o A_NEW_REPOSITORY",
        )
