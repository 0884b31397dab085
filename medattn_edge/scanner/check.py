"""Whether what a configuration names works: every model opens and passes its canary, every destination answers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from medattn_edge.artifact import Artifact
from medattn_edge.errors import BackendError, HostError
from medattn_edge.reasons import DELIVERY_REASONS, WORKER_REASONS
from medattn_edge.scanner.config.node_config import CommitmentPeer, Destination, Model, NodeConfig
from medattn_edge.scanner.config.released import releases_of
from medattn_edge.scanner.deliver.commitment import open_as_provider
from medattn_edge.scanner.deliver.folder import probe
from medattn_edge.scanner.deliver.send import DeliveryRefused, echo
from medattn_edge.scanner.deliver.web import ask
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.work.canary import gate_note
from medattn_edge.scanner.work.segmenting import opened_file
from medattn_edge.scanner.work.supervisor import Supervisor
from medattn_edge.scanner.work.tasks import WorkerLost

_LOOK: Final = "look at what the worker wrote to stderr, and compare the artifact with its checkpoint"
_STOP_S: Final = 5.0


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        kind: what was checked.
        name: of the model or the destination; the AE title of a peer.
        ok: whether it works.
        seconds: that the check took.
        reason: a code; "" when it works.
        meaning: what is wrong, for people; "" when it works.
        action: what to do about it; "" when it works.
        exit_code: that the command ends with when this is the first that fails.
        notes: what was held of a model's gate, and what can only be held elsewhere; for people.
        release: of a model that is one: its name and version; "" for an artifact by itself.
        signer: whose key signed the release, of the trusted ones; "" where nobody's signature was asked for or there
            is none.
    """

    kind: Literal["model", "destination", "commitment_peer"]
    name: str
    ok: bool
    seconds: float
    reason: str = ""
    meaning: str = ""
    action: str = ""
    exit_code: int = 0
    notes: tuple[str, ...] = ()
    release: str = ""
    signer: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def check_node(config: NodeConfig, log: Log) -> Iterator[CheckResult]:
    """Try every model in a worker process of its own, then every destination and peer; one result each, as they come.

    Nothing is segmented or delivered. A node may run meanwhile. Where it has a root, a canary whose answer is not
    known yet is written down there, as the node would do.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        root = config.root if config.root.is_dir() else Path(nowhere)
        for model in config.models:
            yield _check_model(model, config, log, root)
    for destination in config.destinations:
        yield _check_delivery(destination.name, "destination", _way_to(destination, config.calling_ae(destination)))
    if config.storage_commitment.enabled and config.receive is not None:
        for peer in config.commitment_peers:
            yield _check_delivery(peer.ae_title, "commitment_peer", _way_back(peer, config.receive.ae_title))


def _check_model(model: Model, config: NodeConfig, log: Log, root: Path) -> CheckResult:
    began = time.monotonic()
    supervisor = Supervisor(model.computes_on, [model], config.limits, log, root)
    try:
        supervisor.start()
        unwanted = supervisor.unwanted_modules()
    except WorkerLost as lost:
        reason = WORKER_REASONS.get(lost.why)
        action = _LOOK if reason is None else reason.action
        code = BackendError.exit_code
        return CheckResult("model", model.name, False, _since(began), lost.why or lost.reason, lost.found, action, code)
    finally:
        supervisor.stop(_STOP_S)
    if unwanted:
        reason, code = WORKER_REASONS["unwanted_modules"], HostError.exit_code
        meaning = f"{reason.meaning}: {', '.join(unwanted)}"
        return CheckResult("model", model.name, False, _since(began), reason.code, meaning, reason.action, code)
    with opened_file(model) as file:
        note = gate_note(Artifact.read(file).manifest)
    ok = CheckResult("model", model.name, True, _since(began), notes=(note,))
    release = releases_of(replace(config, models=(model,))).get(model.name)
    if release is None:
        return ok
    signer = "" if release.signer is None else release.signer.signer
    return replace(ok, release=release.title, signer=signer)


def _way_to(destination: Destination, calling_ae: str) -> Callable[[], None]:
    """What finds out whether a destination takes things."""
    folder = destination.folder
    if folder is not None:
        return lambda: probe(folder)
    return (lambda: ask(destination)) if destination.dicomweb else (lambda: echo(destination, calling_ae))


def _way_back(peer: CommitmentPeer, calling_ae: str) -> Callable[[], None]:
    """What finds out whether a peer would take an answer; nothing is answered."""

    def open_and_close() -> None:
        association = open_as_provider(peer.address, calling_ae)
        if association.is_established:
            association.release()

    return open_and_close


def _check_delivery(
    name: str, kind: Literal["destination", "commitment_peer"], attempt: Callable[[], None]
) -> CheckResult:
    began = time.monotonic()
    try:
        attempt()
    except DeliveryRefused as refusal:
        known, code = DELIVERY_REASONS[refusal.reason], HostError.exit_code
        return CheckResult(kind, name, False, _since(began), known.code, known.meaning, known.action, code)
    return CheckResult(kind, name, True, _since(began))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
