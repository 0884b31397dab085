"""node status, for people."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import quoted

from . import console

if TYPE_CHECKING:
    from medattn_edge.scanner.check import CheckResult

Document = Mapping[str, Any]


def tell_check(result: CheckResult) -> None:
    """Print the outcome of one check, and what to do about it."""
    from medattn_edge.scanner.observe.messages import sentence

    if result.ok:
        signer = f"signed by {result.signer}" if result.signer else "signed by nobody that was asked for"
        release = f", release {result.release}, {signer}" if result.release else ""
        console.say(f"{result.kind} {result.name}: ok ({result.seconds:.1f} s){release}")
        for note in result.notes:
            console.note(f"{result.name}: {note}")
        return
    console.say(f"{result.kind} {result.name}: {result.reason}")
    console.say(f"  {sentence(result.meaning)} {sentence(result.action)}")


def tell_status(document: Document, config: Path) -> None:
    """Print a status document: what is wrong and what to do first, then counts, recent series and times."""
    _tell_health(document)
    for one in document["quarantined"]:
        _tell_quarantined(one, shlex.quote(str(config)))
    for one in document["undelivered"]:
        for delivery in one["deliveries"]:
            _tell_delivery(one, delivery, shlex.quote(str(config)))
    for one in document["conflicted"]:
        _tell_conflict(one)
    for one in document["gathering"]:
        console.say(
            f"study gathered: {one['key']} v{one['version']} for {one['model']}: {one['detail'] or 'has just begun'}"
        )
    _tell_commitments(document)
    _show_tables(document)


def _tell_commitments(document: Document) -> None:
    counts = document.get("commitments", {})
    if any(counts.values()) or document.get("committed"):
        console.say(
            f"storage commitment: {document['committed']} objects have to stay, {counts['answered']} requests answered,"
            f" {counts['waiting']} waiting, {counts['dead']} given up"
        )


def _tell_conflict(one: Document) -> None:
    from medattn_edge.reasons import ADMISSION_REASONS, CONFLICT, REPLACED
    from medattn_edge.scanner.observe.messages import sentence

    for code, count in ((REPLACED, one["replaced"]), (CONFLICT, one["refused"])):
        if count:
            reason = ADMISSION_REASONS[code]
            console.say(f"came again with other contents: {count} objects of {one['key']}: {code}")
            console.say(f"  {sentence(reason.meaning)} {sentence(reason.action)}")


def _tell_health(document: Document) -> None:
    from medattn_edge.scanner.observe.messages import of_health, sentence

    if not document["running"]:
        console.say("the node is not running; this is what its database says")
    elif document["ready"]:
        console.say("ready")
    elif document["why"] == "no_answer":
        console.say("NOT READY: the node runs and its status page does not answer; this is what its database says")
    else:
        words = of_health(document["why"])
        console.say(f"NOT READY ({document['why']}): {sentence(words.meaning)} {sentence(words.action)}")
    for worker in document.get("workers", ()):
        state = "works" if worker["busy"] else "waits" if worker["ready"] else "is not ready"
        more = f", {worker['restarts']} restarts" if worker["restarts"] else ""
        console.say(f"worker {worker['device']} {state}: {worker['rss_mb']:.0f} MB{more}")
    for model in document.get("models", ()):
        if model.get("sha256"):
            about = f"{model['artifact']} on {model['device']}, SHA-256 {model['sha256'][:16]}..."
            console.say(f"model {model['name']}: {about}")
    if "disk" in document:
        disk = document["disk"]
        more = "; NOTHING NEW IS TAKEN" if disk["refuses"] else ""
        console.say(f"disk: {disk['free'] / 1e9:.1f} of {disk['total'] / 1e9:.1f} GB free{more}")


def _tell_quarantined(one: Document, config: str) -> None:
    from medattn_edge.scanner.observe.messages import of_quarantine, sentence

    words = of_quarantine(one["reason"])
    detail = f" ({one['detail']})" if one["detail"] else ""
    console.say(f"in quarantine: {one['key']} v{one['version']}: {one['reason']}{detail}")
    console.say(f"  {sentence(words.meaning)} {sentence(words.action)}")
    if words.requeue:
        console.say(f"  -> medattn-edge node requeue {one['key']} --config {quoted(config)}")


def _tell_delivery(one: Document, delivery: Document, config: str) -> None:
    from medattn_edge.scanner.observe.messages import of_delivery, sentence

    dead = delivery["state"] == "dead"
    if delivery["state"] == "delivered" or not (dead or delivery["reason"]):
        return
    words = of_delivery(delivery["reason"])
    next_try = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(delivery["next_try"]))
    what = "given up" if dead else f"tried again at {next_try}"
    console.say(
        f"not delivered: {one['key']} v{one['version']} to {delivery['destination']}: {delivery['reason']},"
        f" {delivery['attempts']} attempts, {what}"
    )
    console.say(f"  {sentence(words.meaning)} {sentence(words.action)}")
    if dead:
        console.say(f"  -> medattn-edge node requeue {one['key']} --config {quoted(config)}")


def _show_tables(document: Document) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    counts = [f"{count} {state}" for state, count in document["states"].items() if count]
    console.say(f"series: {', '.join(counts) or 'none yet'}")
    if document["recent"]:
        recent = Table("series", "v", "state", "objects", "last object", box=SIMPLE_HEAD, pad_edge=False)
        for one in document["recent"]:
            when = one["times"].get("last_received")
            last = "-" if when is None else time.strftime("%m-%d %H:%M:%S", time.localtime(when))
            recent.add_row(one["key"], str(one["version"]), one["state"], str(one["instances"]), last)
        console.show(recent)
    times = Table("stage", "median s", "90 % s", "longest s", "series", box=SIMPLE_HEAD, pad_edge=False)
    for name, spread in document["stages"].items():
        values = ("-" if spread[part] is None else f"{spread[part]:.2f}" for part in ("p50", "p90", "max"))
        times.add_row(name, *values, str(spread["count"]))
    console.show(times)
