"""What bisect tells a person: the layers that leave, with those around them, why, and what to type."""

from __future__ import annotations

from typing import Any

from . import console

_AROUND = 1  # layers before and after one that leaves, for comparison
_SHOWN = 12  # that leave, in the table; --all has every one


def tell(document: dict[str, Any], every: bool) -> None:
    """Print a document of bisect, as its --json would have been.

    Args:
        document: of it.
        every: print all layers.
    """
    for note in document["notes"]:
        console.note(note)
    layers = document["layers"]
    console.say(
        f"{document['candidate']} ({document['precision']}) in {document['runtime']} against {document['reference']}, "
        f"on {document['scan']}: {len(layers)} layers"
    )
    if document["matched_layers"] < document["reference_layers"]:
        missing = document["reference_layers"] - document["matched_layers"]
        console.say(
            f"  {missing} of the reference's layers have no counterpart, and are looked at with their neighbours"
        )
    shown = range(len(layers)) if every else _shown(layers)
    if shown:
        _table(layers, shown)
    for one in [layer for layer in layers if layer["leaves"]][:_SHOWN]:
        for cause in one["causes"]:
            console.say(f"  {_title(one)}: {cause}")
    _tell_verdict(document, layers)
    for one in document["advice"]:
        console.say(f"next: {one['command']}")
        console.say(f"      ({one['reason']})")
    for one in document["tried"]:
        _tell_attempt(one)


def _shown(layers: list[dict[str, Any]]) -> list[int]:
    leaving = [index for index, layer in enumerate(layers) if layer["leaves"]][:_SHOWN]
    near = {place for index in leaving for place in range(index - _AROUND, index + _AROUND + 1)}
    return sorted(place for place in near if 0 <= place < len(layers))


def _table(layers: list[dict[str, Any]], shown: Any) -> None:
    from rich.table import Column, Table

    table = Table(
        "layer",
        "operator",
        Column("in", justify="right"),
        Column("range, reference", justify="right"),
        Column("range, candidate", justify="right"),
        Column("clipped", justify="right"),
        Column("saturated", justify="right"),
        Column("SQNR in", justify="right"),
        Column("local (limit)", justify="right"),
        Column("out", justify="right"),
        Column("logits if it alone", justify="right"),
        title="SQNR in dB",
    )
    for index in shown:
        one = layers[index]
        mark = "> " if one["leaves"] else "  "
        table.add_row(
            mark + _title(one),
            one["operator"],
            one["precision"],
            _range(one["reference_range"]),
            _range(one["candidate_range"]),
            f"{one['clipped']:.1%}" if one["clipped"] else "-",
            "-" if one["saturated"] is None else " -> ".join(f"{share:.0%}" for share in one["saturated"]),
            _decibel(one["in_db"]),
            "failed" if one["failure"] else f"{_decibel(one['local_db'])} ({one['limit_db']:.0f})",
            _decibel(one["out_db"]),
            _decibel(one["logits_db"]) if one["leaves"] and not one["failure"] else "",
        )
    console.show(table)


def _title(one: dict[str, Any]) -> str:
    name = one["module"] or "the network itself"
    call, calls = one["call"]
    return name if calls == 1 else f"{name} (call {call} of {calls})"


def _range(pair: list[float] | None) -> str:
    return "not finite" if pair is None else f"{pair[0]:.3g} .. {pair[1]:.3g}"


def _decibel(value: float | None) -> str:
    from medattn_edge.agreement import IDENTICAL_DB  # here: the help of a command needs no numpy

    if value is None:
        return "not finite"
    return "same" if value >= IDENTICAL_DB else f"{value:.1f}"


def _tell_verdict(document: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    whole = document["whole"]
    if whole is None:
        console.say(f"the whole candidate: {document['failure']}")
    else:
        console.say(
            f"the whole candidate: SQNR of the logits in dB: {_decibel(whole['sqnr_db'])}, "
            f"{whole['label_match']:.4%} of the labels equal"
        )
    if document["leaving"]:
        console.say(f"first to leave the reference: {document['first']}")
        console.say("largest local error first: " + ", ".join(document["leaving"][:_SHOWN]))
    if document["together"] is not None:
        console.say(
            f"the layers up to {document['together']} run as one graph are another answer than one by one: "
            "what the runtime makes of them together is wrong"
        )
    if document["adds_up"]:
        console.say("no layer leaves the reference by itself, and the logits are lost all the same: errors add up")
    if document["verdict"] == "pass":
        console.say(f"no layer leaves the reference: PASS ({len(layers)} layers)")
    else:
        console.say("verdict: FAIL")


def _tell_attempt(one: dict[str, Any]) -> None:
    console.say(f"tried: {one['command']}")
    if one["after"] is None:
        console.say(f"      failed: {one['failure']}")
        return
    for when in ("before", "after"):
        figures = one[when]
        if figures is None:
            console.say(f"      {when}: none, it failed")
            continue
        dice = min(figures["dice"].values(), default=None)
        least = "" if dice is None else f", minimum Dice with the reference {dice:.6f}"
        sqnr = f"SQNR of the logits in dB: {_decibel(figures['sqnr_db'])}"
        console.say(f"      {when}: {sqnr}, {figures['label_match']:.4%} of the labels equal{least}")
