"""Tables on narrow terminals: nothing is broken, cut or lost, whatever a table holds."""

from __future__ import annotations

import ast
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.table import Table

from medattn_edge.cli import console
from medattn_edge.cli.plain import Plain
from medattn_edge.cli.tables import fitted
from tests.support import ROOT

WORDS = st.text("abcdefgh/._-0123456789肝", min_size=1, max_size=24)
CELLS = st.lists(WORDS, max_size=4).map(" ".join) | st.lists(WORDS, max_size=3).map("\n".join)


def shown(table: Table, width: int) -> list[str]:
    """What a terminal of that width is given."""
    out = io.StringIO()
    terminal = Plain()
    terminal.file, terminal.width = out, width
    found = fitted(table, terminal)
    terminal.print(found, soft_wrap=not isinstance(found, Table))
    return out.getvalue().splitlines()


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=4)),
       st.integers(10, 120))  # fmt: skip
def test_every_word_of_every_cell_is_there_whole_at_any_width(rows: list[list[str]], width: int) -> None:
    table = Table(*(f"head{index}" for index in range(len(rows[0]))))
    for row in rows:
        table.add_row(*row)
    lines = shown(table, width)
    said = [word.strip(",") for line in lines for word in line.replace("│", " ").replace("┃", " ").split()]
    for row in rows:
        for word in (word for cell in row for word in cell.split()):
            assert word.strip(",") in said, "\n".join(lines)
    if lines[0].startswith("┏"):
        assert max(map(cell_len, lines)) <= width


def test_short_lines_stay_whole_and_the_rest_of_the_room_goes_to_what_is_longer() -> None:
    table = Table("file", "time", "what it is", show_lines=True)
    table.add_row(
        "network.safetensors", "p50 33.7 ms\np90 49.5 ms", "what is longer than the room that there is for it"
    )
    lines = shown(table, 60)
    assert any("network.safetensors │ p50 33.7 ms │" in line for line in lines)
    assert max(map(len, lines)) <= 60


def test_a_hash_is_folded_and_nothing_of_it_is_lost() -> None:
    digest = "0123456789abcdef" * 4
    table = Table(show_header=False)
    table.add_row("sha256", digest)
    lines = shown(table, 50)
    assert len(lines) == 4
    assert "".join(line.split("│")[2].strip() for line in lines[1:3]) == digest


def test_rows_become_lines_where_there_is_no_room_for_their_words() -> None:
    table = Table("artifact", "ms", "why", title="candidates")
    table.add_row("network.safetensors\neager", "33.7", "")
    table.add_row("int8.xml", "-", "Dice 0.9")
    assert shown(table, 20) == [
        "candidates",
        "artifact",
        "    network.safetensors,",
        "    eager",
        "  ms: 33.7",
        "artifact int8.xml",
        "  ms: -",
        "  why: Dice 0.9",
    ]


def test_a_title_that_is_too_long_stands_whole_above(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    title = "/a/path/that/is/much/longer/than/forty/columns/net.onnx"
    table = Table(title=title, show_header=False)
    table.add_row("network", "attention-unet-2d")
    console.show(table)
    assert capsys.readouterr().out.splitlines()[0] == title


def test_every_table_is_shown_by_the_one_function_that_fits_it() -> None:
    """A table that is printed otherwise would be broken again."""
    printed, made = [], 0
    for path in sorted((ROOT / "cli").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        made += sum(isinstance(node, ast.Call) and called(node) == "Table" for node in ast.walk(tree))
        if path.name in ("console.py", "plain.py"):
            continue
        printed += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and called(node) in ("print", "Console", "Plain")
        ]
    assert made > 20
    assert not printed


def called(node: ast.Call) -> str:
    """The name that is called, without what it belongs to."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))
