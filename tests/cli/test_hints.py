"""What is typed next helps: a line that is whole, the file that was meant, the key that was meant."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from rich.text import Text

from medattn_edge.cli import _COMMANDS, app
from medattn_edge.cli.examples import EXAMPLES
from medattn_edge.errors import InputError, MedattnError
from medattn_edge.nearby import key_hint, missing, nearest, place_hint
from tests.cli.conftest import Run


def every_command() -> list[str]:
    """`infer`, `release write`: whatever can be typed."""
    names = list[str]()
    for name in _COMMANDS:
        module = importlib.import_module(f"medattn_edge.cli.{name}")
        names.append(name)
        inner: Any = typer.main.get_group(module.app).commands if hasattr(module, "app") else {}
        names += [f"{name} {one}" for one in inner]
    return names


def parsed(line: str) -> Any:
    """The context of a command as its own parser makes it of a line; nothing is run."""
    root: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    context = root.make_context("medattn-edge", words)
    while context._protected_args or context.args:
        left = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, left)
        context = command.make_context(name, rest, parent=context)
        if not hasattr(command, "commands"):
            break
    return context


def test_every_command_has_an_example_and_no_other() -> None:
    assert sorted(EXAMPLES) == sorted(every_command())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_example_is_a_whole_line_of_that_command(name: str) -> None:
    assert EXAMPLES[name].startswith(f"medattn-edge {name}")
    context = parsed(EXAMPLES[name])
    assert context.command.name in EXAMPLES[name].split()
    for parameter in context.command.params:
        if parameter.required:
            assert context.params[parameter.name], parameter.name


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_no_help_has_words_that_are_taken_for_markup(name: str) -> None:
    command = parsed(EXAMPLES[name]).command
    for text in (command.help, *(getattr(parameter, "help", "") for parameter in command.params)):
        assert Text.from_markup(text or "").plain == (text or "")


@pytest.mark.parametrize("name", [one for one in sorted(EXAMPLES) if one not in ("demo", "doctor")])
def test_a_bare_command_says_what_could_be_typed(medattn: Run, name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = medattn(*name.split())
    assert done.returncode == 2, done.stderr
    hint = done.stderr.split("next: ")[1].strip()
    assert hint in (EXAMPLES[name], "medattn-edge node init ARTIFACT -o node.toml"), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("infer", "nett.onnx", "scan.nii.gz", "-o", "out.nii.gz"),
        ("infer", "net.xml", "scan.nii.gz", "-o", "out.nii.gz"),
        ("calibrate", "nett.onnx", "scan.nii.gz", "-o", "out.onnx", "--profile", "cpu"),
        ("compile", "nett.onnx", "-o", "out.xml"),
        ("inspect", "NET.onnx"),
        ("lint", "nett.onnx", "--profile", "cpu"),
        ("export", "nett.onnx", "-o", "out.onnx"),
        ("bench", "nett.onnx", "--reference", "net.onnx"),
        ("bench", "net.onnx", "--reference", "nett.onnx"),
        ("release", "write", "nett.onnx", "-o", "out"),
        ("release", "show", "nett.onnx"),
    ],
    ids=" ".join,
)
def test_a_file_that_is_not_there_is_told_with_the_one_that_was_meant(
    medattn: Run, words: tuple[str, ...], artifact: Path, scan: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for name, source in (("net.onnx", artifact), ("net.onnx.json", artifact.with_name(f"{artifact.name}.json"))):
        (tmp_path / name).write_bytes(source.read_bytes())
    (tmp_path / "scan.nii.gz").write_bytes(scan.read_bytes())
    monkeypatch.chdir(tmp_path)
    done = medattn(*words)
    assert done.returncode in (2, 4), done.stderr
    assert done.stderr.rstrip().endswith("next: net.onnx"), done.stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("infer", "{artifact}", "skan.nii.gz", "-o", "out.nii.gz"), "scan.nii.gz"),
        (("infer", "{artifact}", "scans.csv", "-o", "out/"), "cases.csv"),
        (("deploy", "net.pth", "scan.nii.gz", "--config", "recipes.toml", "-o", "out"), "recipe.toml"),
        (("node", "--config", "recip.toml"), "recipe.toml"),
        (("deploy", "net.pth", "scan.nii.gz", "--config", "recipe.toml", "-o", "out"), "threads = ..."),
        (("infer", "net.blob", "scan.nii.gz", "-o", "out.nii.gz"), "medattn-edge compile NET.onnx -o net.blob"),
        (("infer", "net.onnx", "scan.nii.gz", "-o", "out.nii.gz"), "medattn-edge export CHECKPOINT -o net.onnx"),
        (("inspect", "spec.jsn"), "spec.json"),
        (("export", "net.pth", "-o", "out.onnx", "--spec", "spec.json"), "spacing: ..."),
    ],
)
def test_a_scan_a_list_a_document_and_a_key_likewise(
    medattn: Run, words: tuple[str, ...], wanted: str, artifact: Path, scan: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "cases.csv").write_text("scan\nscan.nii.gz\n", encoding="utf-8")
    (tmp_path / "recipe.toml").write_text("schema = 1\nthread = 2\n", encoding="utf-8")
    (tmp_path / "spec.json").write_text('{"spacings": [1, 1]}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = medattn(*(word.format(artifact=artifact) for word in words))
    assert done.returncode in (2, 4), done.stderr
    assert done.stderr.rstrip().endswith(f"next: {wanted}"), done.stderr


def test_a_place_that_is_not_there_is_told_by_the_nearest_that_is(tmp_path: Path) -> None:
    for name in ("first.nii.gz", "second.nii.gz", "net.onnx.json"):
        (tmp_path / name).touch()
    assert place_hint(tmp_path / "frist.nii.gz") == str(tmp_path / "first.nii.gz")
    assert place_hint(tmp_path / "1234567.gz") == f"{tmp_path / 'first.nii.gz'} or {tmp_path / 'second.nii.gz'}"
    assert place_hint(tmp_path / "net.onnx") == f"ls {tmp_path}"  # a manifest is no model
    assert place_hint(tmp_path / "x.toml", "make one") == "make one"
    folder = tmp_path / "no" / "where" / "scan.nii"
    assert place_hint(folder) == f"the folder {folder.parent} does not exist either: ls {tmp_path}"
    error = missing(tmp_path / "frist.nii.gz", "a scan")
    assert type(error) is InputError
    assert isinstance(error, MedattnError)
    assert error.message == f"{tmp_path / 'frist.nii.gz'} does not exist; expected a scan"


def test_a_name_that_was_meant_is_found_whatever_its_case() -> None:
    assert nearest("PATCH", ["patch", "batch"]) == "patch"
    assert nearest("zzz", ["patch", "batch"]) == ""
    assert key_hint("tresholds", ["thresholds"]) == "thresholds = ..."
    assert key_hint("zzz", ["thresholds"]) == "remove the line"
