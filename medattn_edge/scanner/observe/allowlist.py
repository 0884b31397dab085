"""The values that a node's log may hold: names of its configuration, and codes of the code."""

from __future__ import annotations

from typing import Final

from medattn_edge import errors, reasons
from medattn_edge.scanner.config.node_config import NodeConfig

ERROR_CODES: Final = tuple(
    one.code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.MedattnError)
)
REASON_CODES: Final = (
    *reasons.SERIES_REASONS,
    *reasons.JOB_REASONS,
    *reasons.DELIVERY_REASONS,
    *reasons.ADMISSION_REASONS,
    *reasons.WORKER_REASONS,
    *reasons.READINESS_REASONS,
)
_PARTS: Final = ("watching", "delivering", "committing", "segmenting")
_LISTENERS: Final = ("plain", "tls", "status", "watch")


def allowed_values(config: NodeConfig) -> tuple[str, ...]:
    """All of them."""
    named = [*(one.name for one in config.models), *(one.name for one in config.destinations)]
    named += [one.ae_title for one in config.commitment_peers]
    hashes = [digest for one in config.models for digest in (one.sha256, one.release_sha256) if digest]
    devices = dict.fromkeys(model.computes_on for model in config.models)
    return (config.name, *named, *hashes, *devices, *_LISTENERS, *_PARTS, *REASON_CODES, *ERROR_CODES)
