"""What comes from outside is printed as it is: no markup, no emoji, and nothing that a terminal obeys."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.table import Column, Table

from medattn_edge.cli import console
from medattn_edge.cli.visible import visible

Run = Callable[..., Any]

HOSTILE = {
    "lung [right]": "lung [right]",
    "lung[/]": "lung[/]",
    "[bold red]x[/bold red]": "[bold red]x[/bold red]",
    ":x: :lungs:": ":x: :lungs:",
    "\\[red]": "\\[red]",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\rb\x08c\x7f": "a\\x0db\\x08c\\x7f",
    "\x9b2J": "\\x9b2J",
    "abc\u202efdp.exe": "abc\\u202efdp.exe",
    "caf\udce9.nii.gz": "caf\\xe9.nii.gz",
}


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=map(ascii, HOSTILE))
def test_every_way_to_print_shows_a_text_as_it_is(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["medattn-edge"])
    table = Table(Column(f"head {text}", footer=f"foot {text}"), title=f"title {text}", show_footer=True)
    table.caption = f"caption {text}"
    table.add_row(f"cell {text}")
    with captured() as (out, err):
        console.say(f"say {text}")
        console.show(table)
        console.note(f"note {text}")
        console.report("input", f"error {text}", f"hint {text}")
        printed = out.getvalue() + err.getvalue()
    for place in ("head", "foot", "title", "caption", "cell", "say", "note", "error", "hint"):
        assert f"{place} {shown}" in printed, place
    assert all(character.isprintable() or character == "\n" for character in printed)


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=map(ascii, HOSTILE))
def test_a_progress_bar_on_a_terminal_shows_a_text_as_it_is(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with captured() as (_, err):
        with console.stages() as progress:
            progress(text, 1, 2)
        with console.progress(text) as step:
            step(1, 2)
        printed = err.getvalue()
    assert shown in printed
    assert shown == text or text not in printed


def test_what_people_write_stays_as_they_wrote_it() -> None:
    for text in ("Lunge rechts äöü", "右肺", "رئة", "a\tb\nc", "µm ± 3"):
        assert visible(text) == text


def test_labels_with_markup_have_their_own_lines(medattn: Run, tmp_path: Path, scan: Path) -> None:
    """The whole way: from a checkpoint's labels to the tables of export and infer."""
    import torch

    from medattn_edge.models import build
    from medattn_edge.models.checkpoint import save
    from medattn_edge.spec import ModelSpec

    organs = ("lung [left]", "lung [right]", "lung[/]", "\x1b[2J:x:")
    spec = ModelSpec(
        network="attention-unet-2d",
        in_channels=1,
        labels=("background", *organs),
        patch=(16, 16),
        stride=(16, 16),
        config={"width": 4},
    )
    torch.manual_seed(0)
    save(tmp_path / "net.safetensors", build(spec), spec, {})
    exported = medattn("export", tmp_path / "net.safetensors", "-o", tmp_path / "net.onnx", "--scan", scan)
    assert exported.returncode == 0, exported.stderr
    done = medattn("infer", tmp_path / "net.onnx", scan, "-o", tmp_path / "labels.nii.gz")
    assert done.returncode == 0, done.stderr
    for name in organs:
        assert visible(name) in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_a_path_with_markup_is_named_whole_in_an_error(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    done = medattn("infer", artifact, tmp_path / "[red]no:x:.nii.gz", "-o", tmp_path / "l.nii.gz")
    assert done.returncode == 4
    assert "[red]no:x:.nii.gz" in done.stderr
