"""What bench tells a person: a row per candidate, its speed beside its agreement; what failed has no speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from medattn_edge.evaluation import MeasurementPlan


def announce(plan: MeasurementPlan) -> None:
    """What will be measured with what, on stderr."""
    from medattn_edge.host import hardware

    cpu, settings, rows = hardware.cpu(), plan.settings, 1 + len(plan.candidates)
    for note in plan.notes:
        console.note(note)
    several = "s" if settings.threads != 1 else ""
    console.note(
        f"{settings.threads} thread{several}, {cpu.model}, "
        f"{', '.join(cpu.instruction_sets) or 'no instruction set we know'}"
    )
    seconds = rows * (settings.duration_s + settings.warm_up_s)
    console.note(f"{rows} rows with the reference, each in a process of its own: at least {seconds:.0f} s")


def tell(document: dict[str, Any]) -> None:
    """Print a document of bench, as its --json would have been."""
    from rich.table import Table

    rows = document["rows"]
    heads = ("artifact", "time of a run, ms", "times as fast", "cost", "agreement", "verdict")
    table = Table(*heads, show_lines=True)
    for index, row in enumerate(rows):
        where = "" if row["device"] == "cpu" else f" on {row['device']}"
        name = f"{row['artifact']}\n{row['backend']}{where}\n{_precision(row)}"
        name += "\n(the reference)" if index == 0 else ""
        table.add_row(name, *_speed(row), _agreement(row), row["verdict"].upper())
    console.show(table)
    for row in rows:
        for failure in row["failures"]:
            console.say(f"FAIL: {row['artifact']} in {row['backend']}: {failure}")
        for note in row["notes"]:
            console.note(f"{row['artifact']} in {row['backend']}: {note}")
    _tell_environment(document["environment"], rows[0])
    for why in dict.fromkeys(document["left_out"].values()):
        names = ", ".join(name for name, reason in document["left_out"].items() if reason == why)
        console.note(f"not measured: {names} ({why})")
    _tell_declined(rows)
    console.say(f"verdict against {document['reference']}: {document['verdict'].upper()}")


def _tell_declined(rows: list[dict[str, Any]]) -> None:
    """Which ratios are no figures, and what to do about it."""
    declined = [row for row in rows if row["ratio_declined"]]
    if declined:
        several = f"{len(declined)} ratios were" if len(declined) > 1 else "a ratio was"
        console.say(
            f"{several} declined: this host was busy with something else, and its times are those of a busy host\n"
            "  next: wait until nothing else runs here (top), and measure again; --duration 60 averages over more runs"
        )


def _tell_environment(environment: dict[str, Any], reference: dict[str, Any]) -> None:
    peaks, noise, load = environment["roofline"], environment["noise"], environment["load_average"]
    reached = (
        f"{_number(peaks['fp32_gflops'], '.0f')} GFLOP/s in FP32, {_number(peaks['int8_gops'], '.0f')} GOP/s in INT8"
    )
    console.note(f"roofline: {reached}")
    for what, why in peaks["left_out"].items():
        console.note(f"  without {what}: {why}")
    console.note(
        f"{reference['rounds'] or 0} rounds; load {load['before'][0]:.1f} before, {load['after'][0]:.1f} after; the "
        f"reference's p90 is {_number(noise, '.2f')} times its median. A ratio tells more than a time: it was paired"
    )
    for warning in environment["warnings"]:
        console.note(f"warning: {warning}", level=0)


def _speed(row: dict[str, Any]) -> tuple[str, str, str]:
    """Times, ratio and cost; what failed has only its arithmetic."""
    gflop = f"{row['gflop']:.2f} GFLOP"
    if row["p50_ms"] is None:
        return "-", "-", gflop
    times = [f"{name} {_milliseconds(row[f'{name}_ms'])}" for name in ("p50", "p90", "p99", "max")]
    if "deadline_ms" in row:
        times.append(f"over {row['deadline_ms']:g}: {_share(row['miss_rate'])}")
    cost = [f"cold {row['cold_start_ms'] / 1e3:.2f} s", f"{row['peak_rss_mb']:.0f} MB", gflop]
    if row["fraction_of_peak"] is not None:
        cost.append(f"{_share(row['fraction_of_peak'])} of peak")
    if row["ratio_declined"]:
        return "\n".join(times), f"declined:\n{row['ratio_declined']}", "\n".join(cost)
    low, high = row["ratio_spread"]
    ratio = f"{row['ratio_to_reference']:.2f}\n{low:.2f} to {high:.2f}"
    return "\n".join(times), ratio, "\n".join(cost)


def _milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _agreement(row: dict[str, Any]) -> str:
    agreement = row["agreement"]
    if agreement is None:
        return "-"
    sqnr = "identical" if agreement["max_abs"] == 0 else f"{_number(agreement['sqnr_db'], '.1f')} dB"
    dice = _number(agreement["min_dice"], ".6f")
    return f"{sqnr}\nlabels {agreement['label_match']:.6f}\nDice with the reference {dice}"


def _precision(row: dict[str, Any]) -> str:
    precision, stored = str(row["precision"]), str(row["stored_precision"])
    return precision if precision == stored else f"{stored}, computed in {precision}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
