"""A canary: one run whose answer is known beforehand, since only a run proves that a server computes.

The health of a server says nothing of its models: the process of one can die, or its answers be empty, while every
endpoint calls it ready.
"""

from __future__ import annotations

import base64
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from medattn_edge.agreement import IDENTICAL_DB, LogitsDistance
from medattn_edge.artifact import Artifact
from medattn_edge.backends import open_session
from medattn_edge.backends.session import Patches
from medattn_edge.backends.triton.remote_model import SUFFIX, RemoteModel
from medattn_edge.backends.triton.server import Server
from medattn_edge.errors import AgreementError, BackendError, IntegrityError, MedattnError, UsageError, quoted
from medattn_edge.gates import CANARY
from medattn_edge.labels import Meaning
from medattn_edge.spec import ModelSpec

Floats = npt.NDArray[np.float32]
VOXELS: Final = 1024  # whose logits are kept: enough to see another answer, little enough for a small file
_SEED: Final = 7


@dataclass(frozen=True)
class CanaryResult:
    """What one model of a server answered.

    Attributes:
        model: its name there.
        address: of the server.
        sha256: of the artifact that it computes with.
        reference: whose answer was the right one.
        voxels: that were compared.
        label_match: fraction of them with the same label, or in the same regions.
        sqnr_db: of their logits, IDENTICAL_DB when they are the same bits.
        seconds: from the request to the answer.
    """

    model: str
    address: str
    sha256: str
    reference: str
    voxels: int
    label_match: float
    sqnr_db: float
    seconds: float

    @property
    def identical(self) -> bool:
        """Whether every logit that was compared has the same bits."""
        return self.sqnr_db == IDENTICAL_DB

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"verdict": "pass", **asdict(self)}


def canary_of(path: Path, threads: int = 0) -> str:
    """What an artifact answers on this host, as `RemoteModel.canary` keeps it.

    Args:
        path: the artifact.
        threads: of its session.

    Raises:
        MedattnError: it cannot be computed here.
    """
    with open_session(path, threads=threads) as session:
        logits = session.run(canary_patches(session.spec, session.batch))
    return base64.b64encode(_sampled(logits).astype("<f4").tobytes()).decode("ascii")


def canary_patches(spec: ModelSpec, batch: int | None) -> Patches:
    """The input, float32 (batch or 1, C, *patch): noise in [0, 1), the same on every host."""
    rng = np.random.default_rng(_SEED)
    return rng.random((batch or 1, spec.in_channels, *spec.patch), dtype=np.float32)


def remote_files(path: Path) -> list[Path]:
    """The NAME.triton of a path: the file itself, or all at the top of a repository, in order.

    Raises:
        UsageError: there is none.
    """
    found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path] if path.suffix.lower() == SUFFIX else []
    if not found or not all(one.is_file() for one in found):
        raise UsageError(
            f"{path} is no NAME{SUFFIX} and has none at its top",
            expected="what `medattn-edge serve write` wrote",
            hint="medattn-edge serve write ARTIFACT -o REPOSITORY; then medattn-edge serve check REPOSITORY",
        )
    return found


def check_served(
    path: Path, *, reference: Path | None = None, timeout_s: float = 10.0, address: str = ""
) -> CanaryResult:
    """Have a server compute the canary, once, and compare its answer with the known one.

    Args:
        path: a NAME.triton.
        reference: the artifact whose answer on this host is the right one; None takes what NAME.triton keeps.
        timeout_s: of each request; nothing is tried again.
        address: HOST:PORT to ask in place of that in NAME.triton, as beside the server itself.

    Raises:
        AgreementError: the answer is another one.
        BackendError: the server does not answer, or not with logits.
        IntegrityError: it has another model, or `reference` is another artifact.
        UsageError: there is nothing to compare the answer with.
    """
    artifact = Artifact.read(path)
    remote = replace(RemoteModel.read(path), timeout_s=timeout_s, tries=1)
    if address:
        remote = replace(remote, address=address)
    spec, patches = artifact.spec, canary_patches(artifact.spec, artifact.manifest.batch)
    expected, source = _expected(path, remote, reference, spec)
    server = Server(remote, path.parent, {"logits": spec.outputs})
    try:
        server.check_model()
        start = time.perf_counter()
        [logits] = server.infer(["logits"], patches)
        seconds = time.perf_counter() - start
    finally:
        server.close()
    if logits.shape != (len(patches), spec.outputs, *spec.patch):
        raise BackendError(
            f"the model {remote.model} at {remote.address} answered with the shape {logits.shape}",
            expected=f"{(len(patches), spec.outputs, *spec.patch)}",
            hint="serve the artifact that this NAME.triton was written for",
        )
    return _judged(remote, source, expected, _sampled(logits), seconds, spec)


def _expected(path: Path, remote: RemoteModel, reference: Path | None, spec: ModelSpec) -> tuple[Floats, str]:
    kept, source = remote.canary, path.name
    if reference is not None:
        found = Artifact.read(reference).content_sha256
        if found != remote.sha256:
            raise IntegrityError(
                f"{reference.name} has the SHA-256 {found[:16]}...",
                expected=f"{remote.sha256[:16]}..., which {path.name} stands for",
                hint="the artifact that was given to `medattn-edge serve write`",
            )
        kept, source = canary_of(reference), reference.name
    if not kept:
        raise UsageError(
            f"{path.name} keeps no answer to compare with: the host that wrote it could not compute the artifact",
            expected="an answer that is known, since one that only arrives proves nothing",
            hint=f"medattn-edge serve check {quoted(path)} --reference ARTIFACT, where the artifact can run",
        )
    try:
        values = np.frombuffer(base64.b64decode(kept, validate=True), "<f4").reshape(-1, spec.outputs)
    except ValueError as error:
        raise BackendError(
            f"the answer that {path.name} keeps is none of {spec.outputs} channels",
            expected="logits in base64",
            hint="write it again: medattn-edge serve write ARTIFACT -o A_NEW_REPOSITORY",
        ) from error
    return values.astype(np.float32), source


def _sampled(logits: Patches) -> Floats:
    """Logits float32 (voxels, K) of some voxels of logits (N, K, *patch), evenly over all of them."""
    voxels = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
    places = np.linspace(0, len(voxels) - 1, min(VOXELS, len(voxels))).astype(np.int64)
    return np.ascontiguousarray(voxels[places])


def _judged(
    remote: RemoteModel, source: str, expected: Floats, found: Floats, seconds: float, spec: ModelSpec
) -> CanaryResult:
    distance, meaning = LogitsDistance(), Meaning.of(spec)
    distance.add(expected, found)
    right, given = meaning.labels_of(expected.T), meaning.labels_of(found.T)
    match = float(np.mean(right == given))
    result = CanaryResult(
        remote.model, remote.address, remote.sha256, source, len(found), match, distance.sqnr_db, seconds
    )
    least_match, least_db = CANARY.limits["min_label_match"], CANARY.limits["min_sqnr_db"]
    if not (distance.finite and match >= least_match and result.sqnr_db >= least_db):
        raise AgreementError(
            f"the model {remote.model} at {remote.address} gives another answer than {source}: "
            f"{match:.2%} of {len(found)} labels equal, logits {result.sqnr_db:.1f} dB",
            expected=f"{least_match:.0%} of the labels and {least_db:g} dB",
            hint="look at the server's log; restart the server, and ask again",
        )
    return result


def failure_json(path: Path, error: MedattnError) -> dict[str, Any]:
    """A check that failed, in the place of `CanaryResult.to_json`."""
    return {
        "file": str(path),
        "verdict": "fail",
        "error": {"code": error.code, "message": error.message, "hint": error.hint},
    }
