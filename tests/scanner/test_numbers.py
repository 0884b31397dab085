"""Every number that is written into the node, and every default: to change one is a decision, made here as well.

What a limit does is tried beside it, elsewhere; that a wait is ten seconds and not eleven, no test waits for.
"""

from __future__ import annotations

import ast
import errno
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

import medattn_edge.scanner
from medattn_edge.scanner.observe.log import Level

SOURCES = Path(medattn_edge.scanner.__file__).parent
MODULES = {str(path.relative_to(SOURCES).with_suffix("")): path for path in sorted(SOURCES.rglob("*.py"))}

# By module. What DICOM fixes has its place in the standard: PS3.4 C.2.3 and J.3.2, PS3.7 C, PS3.8 9.3.4.
CONSTANTS: dict[str, dict[str, object]] = {
    "check": {"_STOP_S": 5.0},
    "config/check": {"_LONGEST_S": 1e8, "_LONGEST_DAYS": 1e5, "_MOST_GB": 1e9},
    "config/toml": {"_LARGEST": 2**63},
    "deliver/commitment": {"_ALL_COMMITTED": 1, "_SOME_FAILED": 2},
    "deliver/deliverer": {"_BATCH": 100},
    "deliver/due": {"_LOOK_S": 1.0, "_LONGEST_PAUSE_S": 60.0},
    "deliver/folder": {"_PROBE_BYTES": 4096, "_FULL": {errno.ENOSPC, errno.EDQUOT}},
    "deliver/send": {
        "_CLOSING_S": 2.0,
        "_LEAST_BYTES_PER_S": 125_000,
        "_DUPLICATE": 0x0111,
        "_CODES": {0x0122: "class_not_supported", 0x0124: "not_authorised"},
        "_FAMILIES": {0xA7: "out_of_resources", 0xA9: "data_set_mismatch"},
        "_REJECTIONS": {(1, 3): "calling_title_unknown", (1, 7): "called_title_unknown"},
    },
    "endpoints": {"_CLOSE_S": 10.0, "_LEAST_S": 1.0},
    "node": {"_LONGEST_TICK_S": 1.0, "_CLEAN_EVERY_S": 900.0},
    "observe/alerts": {"_KEYS": 5},
    "observe/log": {"_RANK": {Level.DEBUG: 0, Level.INFO: 1, Level.WARNING: 2, Level.ERROR: 3}},
    "observe/page": {"_REFRESH_S": 10, "_LISTED": 5, "_PICTURES": 4},
    "observe/server": {"_TIMEOUT_S": 10.0, "_CONNECTIONS": 32, "_ANSWERS": 4},
    "receive/c_store": {
        "SUCCESS": 0x0000,
        "OUT_OF_RESOURCES": 0xA700,
        "CONFLICTING": 0xC111,
        "OTHER_CLASS": 0xA900,
        "NOT_UNDERSTOOD": 0xC000,
        "_REJECTED_PERMANENTLY": (1, 1, 3),
        "_REJECTED_FOR_NOW": (2, 3, 2),
        "_BUFFER": 65_536,
        "_NO_LIMIT": 1_000_000,
        "_IDLE_S": 120.0,
    },
    "receive/listener": {
        "_HANG_UP_S": 0.5,
        "_MOST_BYTES": 1_048_576,
        "_CHUNK": 65_536,
        "REQUEST_S": 10.0,
        "_HALF_OPEN": 64,
        "_OF_ADDRESS": 16,
        "_REQUEST_READS": 2,
    },
    "receive/n_action": {
        "SUCCESS": 0x0000,
        "PROCESSING_FAILURE": 0x0110,
        "NO_SUCH_INSTANCE": 0x0112,
        "INVALID_ARGUMENT": 0x0115,
        "NO_SUCH_CLASS": 0x0118,
        "NO_SUCH_ACTION": 0x0123,
        "NOT_AUTHORISED": 0x0124,
        "RESOURCE_LIMITATION": 0x0213,
        "_REQUEST_COMMITMENT": 1,
        "_BYTES_OF_INSTANCE": 1024,
        "_QUIET_S": 0.3,
        "_BUSY_S": 3.0,
    },
    "receive/objects": {
        "_META": 144,
        "_LONGEST": 64,
        "_CHUNK": 1_048_576,
        "_PIECE": 65_536,
        "_HEAD": 16_777_216,
        "_MOST_GROWTH": 200,
        "_PIXELS": 0x7FE00008,
        "_UNDEFINED": 0xFFFFFFFF,
        "_ITEM": (0xFFFE, 0xE000),
        "_END": (0xFFFE, 0xE0DD),
    },
    "store/admission": {"_HASH_DIGITS": 16},
    "store/commitment_requests": {"_AT_ONCE": 500},
    "store/commitments": {
        "PROCESSING_FAILURE": 0x0110,
        "NO_SUCH_INSTANCE": 0x0112,
        "CLASS_CONFLICT": 0x0119,
        "CLASS_NOT_SUPPORTED": 0x0122,
        "DUPLICATE_TRANSACTION": 0x0131,
        "_DAY_S": 86_400.0,
    },
    "store/database": {"_SQLITE_ERROR": 1},
    "store/disk": {"_CHUNK": 1_048_576, "_COUNT_AGAIN_S": 30.0},
    "store/jobs": {"_CONTENTS_DIGITS": 16},
    "store/keys": {"BYTES": 32},
    "store/retention": {"DAY_S": 86_400.0, "_MARGIN": 0.05},
    "store/rows": {"_SHORT": 8},
    "store/schema": {"BUSY_SECONDS": 30.0},
    "store/served": {"_SCHEMA": 1},
    "store/snapshot": {"LAST": 100, "CONFLICTS_SHOWN_S": 259_200.0},
    "store/spool": {"_LOCKS": 64, "_CHUNK": 1_048_576},
    "work/canary": {"_SEED": 20_181_109},
    "work/dispatch": {"_IDLE_S": 0.5, "_FIRST_PAUSE_S": 1.0, "_LONGEST_PAUSE_S": 60.0, "ROOM": 64_000_000},
    "work/pool": {"_LEAST_S": 1.0},
    "work/segmenting": {"_THUMBNAIL": 512},
    "work/supervisor": {"_POLL_S": 0.25},
    "work/worker": {"_PR_SET_PDEATHSIG": 1},
}

# By module, and by class, function or method: of parameters and of the fields of records.
DEFAULTS: dict[str, dict[str, dict[str, float]]] = {
    "check": {"CheckResult": {"exit_code": 0}},
    "config/sections": {
        "Receive": {"port": 11112, "max_associations": 8, "max_per_address": 6, "max_object_mb": 2048},
        "Tls": {"mutual": True, "port": 2762},
        "Watch": {"poll_s": 2.0, "settle_s": 2.0},
        "Channel": {"volume": 0},
        "Model": {
            "key_slices": 0,
            "rtstruct": False,
            "sr": False,
            "probabilities": False,
            "skip_air": False,
            "any_modality": False,
            "threads": 0,
            "volume": 0,
            "resample_to_first": False,
        },
        "Releases": {"require_signed": True},
        "Destination": {"port": 0, "tls": False, "timeout_s": 30.0},
        "Limits": {
            "quiet_s": 60.0,
            "max_wait_s": 900.0,
            "max_study_wait_s": 3600.0,
            "retries": 1,
            "interruptions": 4,
            "max_instances": 10_000,
            "max_bytes": 8_000_000_000,
            "max_replacements": 4,
            "retry_initial_s": 5.0,
            "retry_max_s": 900.0,
            "delivery_attempts": 500,
            "seed": 0,
            "max_used_fraction": 0.75,
            "min_free_gb": 10.0,
            "job_timeout_s": 900.0,
            "start_timeout_s": 300.0,
            "memory_mb": 0,
            "drain_s": 60.0,
            "keep_days": 14.0,
            "quarantine_keep_days": 30.0,
        },
        "StorageCommitment": {"enabled": False, "keep_days": 30.0, "max_waiting": 1000, "max_instances": 10_000},
        "CommitmentPeer": {"tls": False, "timeout_s": 30.0},
        "Status": {"enabled": True, "port": 8742, "thumbnails": True},
    },
    "deliver/send": {"DeliveryRefused": {"status": 0, "final": False, "of_all": False}},
    "deliver/web": {"_refused": {"final": False}},
    "observe/log": {"Log": {"max_bytes": 10_000_000, "backups": 5}},
    "observe/page": {"page_of": {"refresh": True}},
    "observe/server": {"StatusServer": {"timeout_s": 10.0}, "_Server": {"timeout_s": 10.0}},
    "receive/objects": {"_Reads.read": {"size": -1}, "_Reads.seek": {"whence": 0}, "_text": {"longest": 64}},
    "receive/stream": {"JoinedPieces.seek": {"whence": 0}},
    "store/commitment_requests": {"CommitmentRequests.due": {"limit": 20}},
    "store/custody": {
        "Custody.snapshot": {"recent": 20},
        "Custody.fail": {"retry": True},
        "Custody.deliveries_due": {"limit": 100},
        "Custody.fail_delivery": {"final": False},
    },
    "store/deliveries": {"Deliveries.due": {"limit": 100}},
    "store/disk": {
        "Watermark": {"max_used_fraction": 0.75, "min_free": 10_000_000_000},
        "Watermark.look": {"coming": 0},
    },
    "store/jobs": {"Jobs.fail": {"retry": True}},
    "store/outside": {"snapshot_of": {"recent": 20}},
    "store/records": {
        "Received": {"late": False},
        "Policy": {
            "quiet_s": 60.0,
            "max_wait_s": 900.0,
            "max_study_wait_s": 3600.0,
            "retries": 1,
            "interruptions": 4,
            "max_instances": 10_000,
            "max_bytes": 8_000_000_000,
            "max_replacements": 4,
            "retry_initial_s": 5.0,
            "retry_max_s": 900.0,
            "delivery_attempts": 500,
            "seed": 0,
        },
    },
    "store/snapshot": {"Snapshot": {"committed": 0}},
    "store/store": {"Store.snapshot": {"recent": 20}},
    "store/studies": {"_Study": {"coming": False}},
    "work/segmenting": {"Segmenter": {"shared_cores": False}},
    "work/supervisor": {"Supervisor": {"shared_cores": False}},
}


def module_named(name: str) -> ModuleType:
    return importlib.import_module(f"medattn_edge.scanner.{name.replace('/', '.')}")


def has_number(value: object) -> bool:
    """Whether a value is a number, or has one in it."""
    if isinstance(value, Mapping):
        return any(map(has_number, (*value, *value.values())))
    if isinstance(value, tuple | list | frozenset | set):
        return any(map(has_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def constants_of(name: str) -> dict[str, object]:
    """The constants of a module, by its own text, that are numbers or hold some."""
    module, names = module_named(name), []
    for line in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
        targets: list[ast.expr] = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign) and line.value is not None:
            targets = [line.target]
        names += [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
    return {name: getattr(module, name) for name in names if has_number(getattr(module, name))}


def defaults_of(name: str) -> dict[str, dict[str, float]]:
    """The defaults of a module that are numbers or truths, of what is defined in it."""
    found = {label: dict(numbers_of(thing)) for label, thing in callables_of(module_named(name))}
    return {label: numbers for label, numbers in found.items() if numbers}


def callables_of(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, one in vars(module).items():
        if getattr(one, "__module__", "") != module.__name__ or not callable(one) or hasattr(one, "__members__"):
            continue
        yield name, one
        inside = vars(one).items() if inspect.isclass(one) else ()
        yield from ((f"{name}.{method}", of) for method, of in inside if inspect.isfunction(of) and method[:2] != "__")


def numbers_of(thing: Any) -> Iterator[tuple[str, float]]:
    if inspect.isclass(thing) and issubclass(thing, BaseException) and "__init__" not in vars(thing):
        return  # as its base
    for one in inspect.signature(thing).parameters.values():
        if isinstance(one.default, bool | int | float):
            yield one.name, one.default


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__init__")])
def test_the_numbers_and_defaults_of_a_module_are_those_that_stand_here(name: str) -> None:
    assert constants_of(name) == CONSTANTS.get(name, {})
    assert defaults_of(name) == DEFAULTS.get(name, {})


def test_the_tables_name_no_module_that_is_not_there() -> None:
    assert set(CONSTANTS) | set(DEFAULTS) <= set(MODULES)
