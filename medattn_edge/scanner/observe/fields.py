"""What may be logged. A new field is one line here, and whoever adds it thinks about what can stand in it."""

from __future__ import annotations

from typing import Final

NUMBERS: Final = frozenset(
    {
        "adopted",
        "associations",
        "attempt",
        "attempts",
        "bytes",
        "count",
        "errno",
        "exit_code",
        "failures",
        "free_bytes",
        "gone",
        "instances",
        "interruptions",
        "jobs",
        "limit",
        "line",
        "next_try_s",
        "objects",
        "pid",
        "port",
        "quarantined",
        "queued",
        "requeued",
        "results_lost",
        "rss_mb",
        "seconds",
        "segments",
        "series",
        "signal",
        "size",
        "slices",
        "status",
        "total",
        "unfinished",
        "unreadable",
        "used_share",
        "version",
        "volume",
        "workers",
    }
)
FLAGS: Final = frozenset(
    {
        "accepted",
        "busy",
        "late",
        "new",
        "ready",
        "refused",
        "retry",
        "tls",
    }
)
# Addresses of machines, and nothing that only looks like one.
ADDRESSES: Final = frozenset({"peer"})
# Members of an enumeration, or values that the log was allowed: names from the configuration, codes from the code.
VALUES: Final = frozenset(
    {
        "backend",
        "code",
        "command",
        "destination",
        "device",
        "fate",
        "kind",
        "listener",
        "modality",
        "model",
        "reason",
        "release_sha256",
        "sha256",
        "stage",
        "state",
        "worker",
    }
)
