"""What release diff tells a person: the two, what was set otherwise, every label of every scan, the verdict."""

from __future__ import annotations

import json
from typing import Any

from . import console


def tell_diff(document: dict[str, Any]) -> None:
    """Print a document of release diff, as its --json would have been."""
    for which in ("old", "new"):
        one = document[which]
        signer = f"signed by {one['signed_by']}" if one["signed_by"] else "signature not checked"
        signer = signer if one["signed"] else "not signed"
        console.say(f"{which}: {one['name']} {one['version']}, {one['artifact']}, {signer} ({one['release']})")
    if document["new"]["name"] != document["old"]["name"]:
        console.say("these are releases of two names: versions cannot be compared")
    elif document["new"]["version"] <= document["old"]["version"]:
        console.say("the new version is not larger: a node that has served the old one refuses it")
    for part in ("artifact", "spec"):
        for name, values in document[part].items():
            console.say(f"{name}: {_short(values['old'])} -> {_short(values['new'])}")
    for scan in document["scans"]:
        _tell_scan(scan)
    if document["latency"]:
        _tell_latency(document["latency"])
    for failure in document["failures"]:
        console.say(f"  FAIL: {failure}")
    if document["min_dice"] is not None:
        console.say(f"{document['verdict'].upper()}: Dice between the two at least {document['min_dice']:g}")


def _tell_scan(scan: dict[str, Any]) -> None:
    from rich.table import Table

    changed = scan["changed_voxels"] / scan["voxels"] if scan["voxels"] else 0.0
    table = Table(
        "label", "old voxels", "new voxels", "old ml", "new ml", "change %", "Dice",
        title=f"{scan['scan']}: {scan['changed_voxels']:,} of {scan['voxels']:,} voxels changed ({changed:.4%})",
    )  # fmt: skip
    for name, one in scan["labels"].items():
        before, after = one["old_voxels"], one["new_voxels"]
        percent = f"{100 * (after - before) / before:+.2f}" if before and after is not None else "-"
        table.add_row(
            name, _figure(before, ",d"), _figure(after, ",d"), _figure(one["old_ml"], ",.2f"),
            _figure(one["new_ml"], ",.2f"), percent, _figure(one["dice"], ".6f"),
        )  # fmt: skip
    console.show(table)


def _tell_latency(times: dict[str, Any]) -> None:
    ratio = f"how many times as fast was declined: {times['ratio_declined']}"
    if not times["ratio_declined"]:
        low, high = times["ratio_spread"]
        ratio = (
            f"the new one is {times['ratio_to_old']:.2f} times as fast ({low:.2f} to {high:.2f}, {times['runs']} pairs)"
        )
    console.say(f"one run: old {times['old']['p50_ms']:.2f} ms, new {times['new']['p50_ms']:.2f} ms; {ratio}")
    if times["old"]["patches"] != times["new"]["patches"]:
        console.say(f"of other patches: old {times['old']['patches']}, new {times['new']['patches']}")


def _figure(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
