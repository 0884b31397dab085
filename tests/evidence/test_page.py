"""The page: every figure is on it, every text is escaped, nothing is loaded, the same evidence gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.errors import OutputError
from medattn_edge.evidence import format as text
from medattn_edge.evidence import write_report
from tests.support.evidence import evidence

MARKUP = "<script>alert('x')</script>&\"$\\alpha_{</svg>"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """What a browser would see of a page: elements, attributes, texts, and whether they are nested as they should."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def written(folder: Path, **more: Any) -> tuple[Page, dict[str, Any], str]:
    page, document = write_report(evidence(**more), folder)
    source = page.read_text(encoding="utf-8")
    return Page(source), json.loads(document.read_text()), source


def test_the_verdict_comes_first_and_every_section_is_there(tmp_path: Path) -> None:
    page, document, _ = written(tmp_path)
    assert page.faults == []
    assert page.open == []
    assert page.text.index("PASS") < page.text.index("Asked: ") < page.text.index("Identity and lineage")
    assert (document["kind"], document["schema"], document["verdict"]) == ("medattn-edge evidence report", 1, "pass")
    for figure in (
        *(
            "0.99912",
            "0.9062",
            "0.9052",
            "0.9988",
            "1.25",
            "0.99875",
            "0.93750",
            "101.0",
            "+1.00 %",
            "61.2 dB",
            "75.0 %",
        ),
        *("12.5", "13.5", "14.5", "15.5", "2.25", "2.00–2.50", "321", "123", "37.5 %", "222", "777", "33.2 dB"),
        *("0.96875", "0.8125", "+1.5 ml", "decoder.3.gate.psi", "12 windows", "ab" * 32, "cd" * 32),
    ):
        assert figure in page.text, figure


def test_a_failed_check_is_said_first_and_the_artifact_must_not_be_installed(tmp_path: Path) -> None:
    page, document, _ = written(tmp_path, verdict="fail")
    assert document["verdict"] == "fail"
    head = page.text[: page.text.index("Identity and lineage")]
    assert "net.onnx must not be installed" in head
    assert "FAIL" in head
    assert "why" in head
    nothing, _, _ = written(tmp_path, checks=())
    assert "FAIL" in nothing.text  # what nobody asked anything of did not pass


def test_texts_full_of_markup_stay_texts(tmp_path: Path) -> None:
    plain, _, _ = written(tmp_path)
    page, document, source = written(tmp_path, word=MARKUP)
    assert page.faults == []
    assert "<script" not in source
    assert [name for name, _ in page.elements] == [name for name, _ in plain.elements]
    assert page.text.count("<script>alert('x')</script>&\"$\\alpha_{</svg>") > 30
    assert document["cases"][0]["name"] == f"case 1{MARKUP}"
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_nothing_is_loaded_and_no_script_is_run(tmp_path: Path) -> None:
    page, _, source = written(tmp_path)
    assert not {"script", "link", "iframe", "object", "form"} & {name for name, _ in page.elements}
    addresses = [
        str(value)
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key.endswith(("src", "href"))
    ]
    assert addresses
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in addresses)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert any("default-src 'none'" in str(attributes.get("content")) for _, attributes in page.elements)


def test_no_name_in_the_page_is_given_twice_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    page, _, source = written(tmp_path)
    names = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    wanted = {
        value[1:] for _, a in page.elements for key, value in a.items() if key.endswith("href") and value[:1] == "#"
    }  # type: ignore[index]
    assert wanted | set(re.findall(r"url\(#([^)]+)\)", source)) <= set(names)


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    pairs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pairs.append([path.read_bytes() for path in write_report(evidence(), tmp_path / name)])
    assert pairs[0] == pairs[1]
    assert hashlib.sha256(pairs[0][1]).hexdigest().encode() in pairs[0][0]
    other = [path.read_bytes() for path in write_report(evidence(notes=("another",)), tmp_path / "a")]
    assert other[0] != pairs[0][0]
    assert hashlib.sha256(pairs[0][1]).hexdigest().encode() not in other[0]


def test_what_is_empty_says_where_to_read_why(tmp_path: Path) -> None:
    bare = {"volumes": (), "layers": (), "latency": None, "overlays": (), "attention": (), "candidates": ()}
    page, document, _ = written(tmp_path, **bare)
    assert page.faults == []
    assert page.text.count("Why: what was not measured") == 7
    assert document["latency"] is None
    assert "svg" not in {name for name, _ in page.elements}


def test_pictures_in_the_document_are_their_hashes(tmp_path: Path) -> None:
    page, document, _ = written(tmp_path)
    (overlay,) = document["overlays"]
    assert overlay["difference"] == hashlib.sha256(evidence().overlays[0].difference).hexdigest()
    assert len([1 for name, _ in page.elements if name == "img"]) == 5


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page, document = write_report(evidence(), tmp_path)
    before = page.read_bytes(), document.read_bytes()
    with pytest.raises(OutputError):
        write_report(evidence(), tmp_path / "nowhere")
    with pytest.raises(TypeError):
        write_report(replace(evidence(), notes=(object(),)), tmp_path)
    assert (page.read_bytes(), document.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_figures_are_cut_and_never_rounded_up_to_one() -> None:
    assert text.share(0.999999) == "0.99999"
    assert text.share(1.0) == "1.00000"
    assert text.share(0.29, 2) == "0.29"
    assert text.share(None) == text.number(None) == text.percent(None) == text.signed(None) == "–"
    assert (text.signed(-0.25), text.signed(0.0), text.signed(3.0)) == ("−0.25", "0", "+3")
    assert (text.decibel(300.0), text.decibel(None), text.decibel(41.26)) == ("identical", "not finite", "41.3 dB")
    assert (text.milliseconds(123.4), text.milliseconds(1.2345)) == ("123", "1.23")
