"""The pages say what happens: every command in them is run, in the order of the navigation, or says why it is not."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

from tests.docs.pages import DOCS, REASONS, Block, blocks, pages, relative
from tests.support import ROOT

RUN = ("sh", "python")
SHOWN = ("text", "toml", "yaml", "json", "ini")
# So many blocks are not run, and no more: who adds one says so here.
NOT_RUN = {
    "needs an NVIDIA GPU": 2,
    "needs a Jetson": 2,
    "needs a Docker daemon": 2,
    "needs a Triton server": 3,
    "starts Ray, or needs a cluster": 1,
    "needs root": 1,
    "needs your own files": 9,
    "takes minutes": 7,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder `work` of a clone: what the pages make lies in it from page to page."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("examples", "containers"):
        (clone / name).symlink_to(ROOT / name)
    (clone / "work").mkdir()
    yield clone / "work"
    node = clone / "work" / "node.pid"  # the tutorial's, where it did not come to its end
    if node.exists():
        with suppress(ProcessLookupError):
            os.kill(int(node.read_text()), signal.SIGKILL)


def test_every_page_is_in_the_navigation_and_every_block_is_of_a_kind_that_is_known() -> None:
    written = {relative(path) for path in DOCS.rglob("*.md") if "results" not in path.relative_to(DOCS).parts}
    assert written == {page for page in pages() if not page.startswith("results/")}
    for page in sorted(written):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert not re.search(r"^[ \t]+```", text, re.MULTILINE), f"{page}: an indented block would not be run"
        assert {block.language for block in blocks(page)} <= {*RUN, *SHOWN}, page


def test_what_is_not_run_is_counted_and_has_its_reason() -> None:
    not_run = [block for page in pages() for block in blocks(page) if block.reason]
    assert all(block.language in RUN for block in not_run)
    assert {*NOT_RUN} == REASONS
    assert {**dict.fromkeys(NOT_RUN, 0), **Counter(block.reason for block in not_run)} == NOT_RUN


def test_the_reference_has_every_public_name_and_no_other() -> None:
    import medattn_edge

    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    found = re.findall(r'^::: (\S+)\.(\w+)\n    options: \{heading: "([\w.]+)"', text, re.MULTILINE)
    assert {heading for _, _, heading in found if "." not in heading} == set(medattn_edge.__all__)
    for module, name, heading in found:
        here = getattr(importlib.import_module(module), name)
        path, _, last = f"medattn_edge.{heading}".rpartition(".")
        assert getattr(importlib.import_module(path), last) is here, heading


def commands(text: str) -> list[list[str]]:
    """The lines of a block that are commands of medattn-edge, as words without the program's name."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "medattn-edge " in line]
    return [words[words.index("medattn-edge") + 1 :] for words in found if "medattn-edge" in words]


def test_commands_that_are_not_run_have_options_that_exist() -> None:
    from medattn_edge.cli import app

    checked = 0
    for block in (block for page in pages() for block in blocks(page) if block.reason):
        for words in commands(block.text):
            known, rest = options_of(root_command(app), words)
            options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
            assert options <= known, f"docs/{block.page}:{block.line}: {' '.join(words)}"
            checked += 1
    assert checked > 20


def test_the_commands_in_readme_have_options_that_exist() -> None:
    from medattn_edge.cli import app

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```\n(medattn-edge .*?)```", text, re.DOTALL)
    assert len(commands(block)) > 5
    for words in commands(block):
        known, rest = options_of(root_command(app), words)
        assert {word for word in rest if re.match(r"--?[a-z]", word)} <= known, " ".join(words)


def root_command(app: Any) -> Any:
    """The command line as one command, whatever typer makes of it."""
    from typer.main import get_command

    return app if hasattr(app, "get_command") else get_command(app)


def options_of(command: Any, words: list[str]) -> tuple[set[str], list[str]]:
    """The options of the command that these words call, and the words behind its name."""
    context = command.make_context("medattn-edge", ["--help"], resilient_parsing=True)
    while hasattr(command, "get_command") and words and (inner := command.get_command(context, words[0])) is not None:
        command, words = inner, words[1:]
        context = command.make_context(command.name, [], parent=context, resilient_parsing=True)
    assert not hasattr(command, "get_command") or not words or words[0].startswith("-"), words
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return known | {"--help"}, words


def run(block: Block, work: Path) -> None:
    """Run a block as a reader would type it; a file's block is written."""
    if block.file:
        (work / block.file).write_text(block.text, encoding="utf-8")
        return
    program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        [*program, block.text], cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    where = f"docs/{block.page}:{block.line}"
    assert done.returncode == 0, f"{where}\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_do_what_it_says(page: str, work: Path) -> None:
    for block in blocks(page):
        if not block.reason and (block.language in RUN or block.file):
            run(block, work)
