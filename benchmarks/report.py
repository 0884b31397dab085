"""Committed results -> what people read: results/README.md, results/*.png, tables in docs/benchmarks.md and README.

    python benchmarks/report.py            # writes them
    python benchmarks/report.py --check    # says what is stale, exit code 1

Everything is made from results/*.json alone. A picture carries the SHA-256 of the file that it was drawn from.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import cells
import gpu_table
import isa_table
import operator_table
import typer
from cases import NNCF, OURS, PLAIN, REFERENCE
from markdown_table import markdown_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = (HERE.parent / "docs" / "benchmarks.md", HERE.parent / "README.md")
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
SHORT = ("<!-- benchmarks, short: begin -->", "<!-- benchmarks, short: end -->")
SOURCE = "Source-SHA256"  # the key in a picture's metadata
KEPT = "speed-and-dice.png"
_HEAD = (
    "row",
    "runs in",
    "computes in",
    "p50 ms",
    "p99 ms",
    "times eager",
    "times plain ONNX in ORT",
    "times NNCF in OpenVINO",
    "cold start ms",
    "peak RSS MB",
    "of peak",
    "SQNR dB",
    "labels equal",
    "Dice with eager",
    "share of its true Dice",
    "verdict",
)
_OURS = {form.name for form in OURS}
Document = dict[str, Any]


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; say what is stale.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    pages: Annotated[list[Path] | None, typer.Option("--page", help="A file with markers; repeat it.")] = None,
) -> None:
    """Make the report."""
    pages = pages or [*PAGES]
    if check:
        said = stale(results, *pages)
        for line in said:
            print(line, file=sys.stderr)
        raise typer.Exit(1 if said else 0)
    for path, text in texts(results, *pages).items():
        path.write_text(text, encoding="utf-8")
    from plots import draw, draw_kept

    found = documents(results)
    for name, document in found.items():
        draw(document, results / f"{name}.png", {SOURCE: digest(results / f"{name}.json")})
    if known := trained_of(found):
        draw_kept(known, results / KEPT, {SOURCE: kept_digest(results, known)})


def documents(results: Path) -> dict[str, Document]:
    """Name -> document of every result of the suite and of the curves, the cases first."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    ours = {name: one for name, one in read.items() if {"environment", "rows"} <= one.keys()}
    cases = [name for name in ours if "case" in ours[name]]
    learnt = [name for name in cases if is_trained(ours[name])]
    rest = [name for name in cases if name not in learnt] + [name for name in ours if "curve" in ours[name]]
    ordered = [*learnt, *rest]
    return {name: ours[name] for name in ordered}


def is_trained(document: Document) -> bool:
    """Whether a result is of a network that has learnt something: only of such a one can anything be kept."""
    return bool(document.get("case", {}).get("weights") == "trained")


def trained_of(found: dict[str, Document]) -> dict[str, Document]:
    """The results that have a share of the true Dice in their rows."""
    return {
        name: document
        for name, document in found.items()
        if is_trained(document) and any((row["agreement"] or {}).get("true_dice_share") for row in document["rows"])
    }


def kept_digest(results: Path, known: dict[str, Document]) -> str:
    """Of the files that the picture of what was kept is drawn from."""
    return hashlib.sha256("".join(digest(results / f"{name}.json") for name in known).encode()).hexdigest()


def texts(results: Path, *pages: Path) -> dict[Path, str]:
    """What the text files should hold: the report of all results, and the tables between the markers of the pages."""
    found = documents(results)
    made = {results / "README.md": page(found)}
    more = (isa_table.sections, operator_table.sections, gpu_table.section)
    made[results / "README.md"] += "".join(section(results) for section in more)
    tables = {
        (BEGIN, END): lambda: summary(found),
        SHORT: lambda: short(found),
        (isa_table.BEGIN, isa_table.END): lambda: isa_table.summary(results),
        (gpu_table.BEGIN, gpu_table.END): lambda: gpu_table.summary(results),
    }
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for markers, table in tables.items():
            if markers[0] in text:
                made[path] = text = with_table(text, table(), markers)
    return made


def stale(results: Path, *pages: Path) -> list[str]:
    """One sentence per file that is not what the results say."""
    wanted = texts(results, *pages)
    said = [
        f"{path} is stale"
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for name in documents(results):
        picture = results / f"{name}.png"
        if _source_of(picture) != digest(results / f"{name}.json"):
            said.append(f"{picture} is stale")
    known = trained_of(documents(results))
    if known and _source_of(results / KEPT) != kept_digest(results, known):
        said.append(f"{results / KEPT} is stale")
    return [f"{line}: make bench-report" for line in said]


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _source_of(picture: Path) -> str:
    from PIL import Image

    if not picture.is_file():
        return ""
    with Image.open(picture) as image:
        return str(image.info.get(SOURCE, ""))


def with_table(text: str, table: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """A text with what is between two markers replaced."""
    begin, end = markers
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def summary(found: dict[str, Document]) -> str:
    """The tables of docs/benchmarks.md: trained networks with what they keep, the others for their kernels' speed."""
    cases = [document for document in found.values() if "case" in document]
    learnt = [document for document in cases if is_trained(document)]
    note = (
        "Medians of paired ratios of one interleaved run, times faster than eager PyTorch; then than the plain "
        "`torch.onnx.export` in ONNX Runtime. All rows, their agreement and the environment: "
        "[all results](results/README.md)."
    )
    parts = []
    if learnt:
        head = ("trained case", "fastest INT8", f"times {NNCF.name}", "Dice with eager", "share of its true Dice")
        head = (*head, "fastest FP32", "fastest peer that agrees", "fails")
        parts.append(markdown_table(head, [_learnt(document) for document in learnt]))
    others = [document for document in cases if not is_trained(document)]
    if others:
        head = ("untrained case, for speed only", "fastest INT8", "fastest FP32", "fastest peer that agrees", "fails")
        parts.append(markdown_table(head, [(_name(one), *map(_short, _best(one)), _failed(one)) for one in others]))
    return "\n\n".join([*parts, note])


def short(found: dict[str, Document]) -> str:
    """The table of README: what the fastest INT8 file keeps, of each network that is judged by true labels."""
    head = ("trained network", "INT8, times faster than eager", "Dice with eager", "share of its true Dice")
    rows = []
    for document in trained_of(found).values():
        int8, _, _ = _best(document)
        if int8 is None:
            continue
        low, high = int8["agreement"]["true_dice_share"]
        speed = f"{cells.ratio(int8, 'ratio_to_reference', 'ratio_spread')} ({int8['artifact']})"
        rows.append((_name(document), speed, f"{int8['agreement']['min_dice']:.4f}", f"{low:.4f} to {high:.4f}"))
    return markdown_table(head, rows)


def _learnt(document: Document) -> tuple[str, ...]:
    """A trained case: what its fastest INT8 file keeps stands beside its speed."""
    int8, fp32, peer = _best(document)
    agreement = {} if int8 is None else int8["agreement"]
    dice, share = agreement.get("min_dice"), agreement.get("true_dice_share")
    return (
        _name(document),
        _short(int8),
        "-" if int8 is None else cells.ratio(int8, "ratio_to_nncf", "ratio_to_nncf_spread"),
        cells.number(dice, ".4f"),
        "-" if share is None else " to ".join(f"{one:.4f}" for one in share),
        _short(fp32),
        _short(peer),
        _failed(document),
    )


def _name(document: Document) -> str:
    return f"{document['case']['name']}, {_size(document['rows'][0])}"


def _failed(document: Document) -> str:
    return ", ".join(row["artifact"] for row in document["rows"] if row["verdict"] == "fail") or "none"


def _best(document: Document) -> tuple[Document | None, Document | None, Document | None]:
    """The fastest rows that agree: of ours in INT8 and in FP32, and of the peers."""
    ours = [row for row in document["rows"] if row["artifact"] in _OURS]
    peers = [row for row in document["rows"] if row["artifact"] not in _OURS | {REFERENCE.name}]
    int8, fp32 = ([row for row in ours if row["precision"] == precision] for precision in ("int8", "fp32"))
    return _fastest(int8), _fastest(fp32), _fastest(peers)


def page(found: dict[str, Document]) -> str:
    """results/README.md."""
    parts = [
        "# Results\n\nMade by `python benchmarks/report.py` from the JSON files beside it; edit nothing here. A ratio "
        "is the median of paired ratios of one interleaved run, with its quartiles: above 1 is faster. A row that does "
        "not agree has no speed."
    ]
    if trained_of(found):
        parts.append(f"![speed against what is kept]({KEPT})")
    for name, document in found.items():
        parts.append(f"## {_title(name, document)}\n\n{_environment(document)}\n\n![{name}]({name}.png)")
        parts += [*_blind(document), *_own_dice(document), table_of(document)]
        parts += [f"{row}: not measured: {why}" for row, why in document.get("absent", {}).items()]
    return "\n\n".join(parts) + "\n"


def _title(name: str, document: Document) -> str:
    if "curve" in document:
        return str(document["curve"]["title"])
    case = document["case"]
    about = f"{case['weights']} weights of {case['source']}, judged on {case['judged_on']}"
    return f"{name}: {_size(document['rows'][0])}, {about}"


def _blind(document: Document) -> list[str]:
    """What an SQNR is worth here: logits that hardly vary are matched by an answer that never looks at the image."""
    constant = document.get("case", {}).get("constant_db")
    if constant is None:
        return []
    return [f"Answering every image with each channel's mean would have an SQNR of {constant:.1f} dB."]


def _own_dice(document: Document) -> list[str]:
    """The true Dice that the shares are of."""
    true = (document["rows"][0]["agreement"] or {}).get("true_dice")
    if not true:
        return []
    figures = ", ".join(f"{name} {value:.4f}" for name, value in true.items())
    return [f"True Dice of eager, in slices that were held out (1 subject): {figures}."]


def _environment(document: Document) -> str:
    told = []
    for key, value in document["environment"].items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        told.append(f"- {key}: {text}")
    return "\n".join(told)


def table_of(document: Document) -> str:
    """All rows of a result in Markdown."""
    curve = document.get("curve")
    head = (curve["x"], *_HEAD) if curve else _HEAD
    return markdown_table(head, [((row["x"],) if curve else ()) + _cells(row) for row in document["rows"]])


def _cells(row: Document) -> tuple[Any, ...]:
    agreement = row["agreement"] or {}
    shares = agreement.get("true_dice_share")
    return (
        row["artifact"],
        row["backend"],
        row["precision"],
        cells.number(row["p50_ms"], ".1f"),
        cells.number(row["p99_ms"], ".1f"),
        cells.ratio(row, "ratio_to_reference", "ratio_spread"),
        cells.ratio(row, "ratio_to_plain_onnx", "ratio_to_plain_onnx_spread"),
        cells.ratio(row, "ratio_to_nncf", "ratio_to_nncf_spread"),
        cells.number(row["cold_start_ms"], ".0f"),
        cells.number(row["peak_rss_mb"], ".0f"),
        cells.number(row["fraction_of_peak"], ".0%"),
        cells.sqnr(row),
        cells.number(agreement.get("label_match"), ".4%"),
        cells.number(agreement.get("min_dice"), ".5f"),
        "-" if shares is None else " to ".join(f"{one:.4f}" for one in shares),
        cells.verdict(row),
    )


def _fastest(rows: list[Document]) -> Document | None:
    able = [row for row in rows if row["ratio_to_reference"] is not None]
    return max(able, key=lambda row: row["ratio_to_reference"], default=None)


def _short(row: Document | None) -> str:
    if row is None:
        return "-"
    plain = row.get("ratio_to_plain_onnx")
    second = "" if plain is None or row["artifact"] == PLAIN.name else f", {plain:.2f}"
    return f"{row['ratio_to_reference']:.2f}{second} ({row['artifact']}, {row['agreement']['sqnr_db']:.1f} dB)"


def _size(row: Document) -> str:
    return "x".join(map(str, row["patch"]))


if __name__ == "__main__":
    typer.run(main)
