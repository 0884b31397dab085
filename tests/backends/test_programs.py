"""Programs that reach files: refused from their text, before a line of them is run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import medattn_edge as me
from medattn_edge.artifact import manifest_path, sha256
from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.backends.torch.programs import forbidden_operator
from medattn_edge.errors import BackendError, InputError
from tests.support.networks import export_checkpoint, random_checkpoint


class AtLoad(nn.Module):
    """Writes a file when it is loaded, and not first when it is run."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.head, self.name = nn.Conv2d(1, 2, 1), name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.name, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.name = state[0]
        self.training = state[1]
        torch.save(torch.zeros(3), state[0])


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) if x.size(2) > 1 else self.head(x) + 1


def scripted(network: nn.Module, path: Path) -> Path:
    with torchscript_is_deprecated():
        torch.jit.script(network.eval()).save(str(path))
    return path


def changed(path: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive, each entry changed."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, change(name, source.read(name)))
    return target


def with_body(path: Path, target: Path, line: str) -> Path:
    """With a statement before the first return of the program's text."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(".py"):
            return content
        text = content.decode()
        place = text.index("    if ") if "    if " in text else len(text)
        return (text[:place] + f"    {line}\n  " + text[place:]).encode() if place < len(text) else content

    return changed(path, target, change)


def test_a_program_that_writes_when_it_is_loaded_is_not_loaded(tmp_path, monkeypatch):
    stolen = tmp_path / "stolen.bin"
    path = scripted(AtLoad(str(stolen)), tmp_path / "net.pt")
    assert forbidden_operator(path) == "aten::save"
    # What it would do without us: it writes, and fails afterwards.
    with torchscript_is_deprecated(), pytest.raises(RuntimeError, match="left uninitialized"):
        torch.jit.load(str(path))
    assert stolen.exists()
    stolen.unlink()
    with pytest.raises(InputError, match=r"calls aten::save, which touches files"):
        me.read_foreign(path, patch=(32, 32))
    assert not stolen.exists()


def test_an_artifact_that_writes_when_it_is_loaded_is_not_loaded(tmp_path):
    made = export_checkpoint(random_checkpoint(), tmp_path / "net.torchscript")
    path, stolen = Path(made.path), tmp_path / "stolen.bin"
    before = sha256(path)
    assert before in manifest_path(path).read_text()
    scripted(AtLoad(str(stolen)), path)
    text = manifest_path(path).read_text().replace(before, sha256(path))
    manifest_path(path).write_text(text)
    with pytest.raises(BackendError, match=r"calls aten::save, which touches files"):
        me.open_session(path)
    assert not stolen.exists()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('torch.save(x, "a")', "aten::save"),
        ('torch . save (x, "a")', "aten::save"),
        ('torch.\\\n save(x, "a")', "aten::save"),
        ('ops.aten.save(x, "a")', "aten::save"),
        ("f = torch.save", "aten::save"),
        ('getattr(torch, "save")(x, "a")', "aten::save"),
        ('getattr(torch, "sa\\x76e")(x, "a")', "prim::getattr"),
        ("t = ops", "ops::getattr"),
        ('ops.image.read_file("a")', "image::read_file"),
        ('ops . image . read_file("a")', "image::read_file"),
        ('y = torch.from_file("/etc/hostname", False, 1)', "aten::from_file"),
    ],
)
def test_every_spelling_of_it_is_found(tmp_path, line, found):
    path = scripted(Plain(), tmp_path / "plain.pt")
    assert forbidden_operator(path) == ""
    assert forbidden_operator(with_body(path, tmp_path / "changed.pt", line)) == found


def exported(path: Path) -> Path:
    torch.export.save(torch.export.export(Plain().eval(), (torch.zeros(2, 1, 8, 8),)), str(path))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("torch.ops.aten.from_file.default", "aten::from_file"),
        ("torch.ops.image.read_file.default", "image::read_file"),
        ("torch.serialization.os.system", "torch::serialization"),
        ("torch.save", "torch::save"),
        ("_operator.methodcaller", "_operator::methodcaller"),
        ("torch.ops.aten.__class__", "aten::__class__"),
    ],
)
def test_an_exported_program_that_names_something_else_than_an_operator_is_refused(tmp_path, target, found):
    path = exported(tmp_path / "plain.pt2")
    assert forbidden_operator(path) == ""

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"torch.ops.aten.conv2d.default", target.encode())

    other = changed(path, tmp_path / "other.pt2", change)
    assert forbidden_operator(other) == found
    with pytest.raises(InputError, match=f"calls {found}"):
        me.read_foreign(other)


class Bomb:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore")
def test_pickled_code_in_an_exported_program_is_not_run(tmp_path):
    path, made = exported(tmp_path / "plain.pt2"), tmp_path / "made"
    stream = io.BytesIO()
    torch.save({"x": Bomb(made)}, stream)

    def change(name: str, content: bytes) -> bytes:
        return stream.getvalue() if name.endswith(".pt") else content

    other = changed(path, tmp_path / "other.pt2", change)
    with pytest.raises(InputError, match="cannot be read as"):
        me.read_foreign(other)
    assert not made.exists()
