"""What is published is durable: every byte synced before its name changes, and the name synced after.

A killed process cannot show a dropped fsync, since the kernel writes all the same; the order of the calls can.
"""

from __future__ import annotations

import ast
import hashlib
import os
from pathlib import Path

import pytest

from medattn_edge.atomic import replacing
from medattn_edge.scanner.deliver.folder import probe
from medattn_edge.scanner.store.disk import make_folder, rename_durably, write_durably
from tests.support import ROOT
from tests.support.durable_node import Node, sample
from tests.support.publishers import ALL, PUBLISHERS, Place, new_place
from tests.support.sync_trace import content_of, identity, traced

# What promises whole files and not that they outlive a power cut: of these the bytes are synced, the names are not.
WHOLE_FILES = (
    "medattn_edge/atomic.py:replacing",
    "medattn_edge/evaluation/attention/files.py:_appearing",
    "medattn_edge/release/write.py:_put",
    "medattn_edge/release/write.py:_sign_folder",
    "medattn_edge/serving/triton_repository.py:_new_folder",
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path)


@pytest.mark.parametrize(("where", "publisher"), ALL, ids=[f"{one.__name__}" for _, one in ALL])
def test_bytes_are_synced_before_the_name_and_the_name_after(where, publisher, place):
    del where
    with traced() as trace:
        published = publisher(place)
    assert trace.problems() == []
    files = [one for one in (published, *published.rglob("*")) if one.is_file()]
    assert [one for one in files if trace.synced.get(identity(one)) != content_of(one)] == []


def test_a_whole_file_has_its_bytes_on_the_disk_before_its_name(tmp_path):
    for content in (b"first", b"second"):
        with traced() as trace, replacing(tmp_path / "labels.nii.gz") as temporary:
            temporary.write_bytes(content)
        assert trace.lost == []
        assert trace.synced[identity(tmp_path / "labels.nii.gz")] == content_of(tmp_path / "labels.nii.gz")


def test_a_release_has_its_bytes_on_the_disk_before_its_name(tmp_path):
    pytest.importorskip("cyclonedx", reason="the extra release is not installed")
    from tests.support.releases import signed_release

    with traced() as trace:
        release, _ = signed_release(tmp_path)
    assert trace.lost == []
    files = [one for one in release.rglob("*") if one.is_file()]
    assert release / "release.sig" in files
    assert [one.name for one in files if trace.synced.get(identity(one)) != content_of(one)] == []


def test_a_repository_of_a_server_has_its_bytes_on_the_disk_before_its_name(tmp_path, small_artifact):
    pytest.importorskip("tritonclient", reason="the extra triton is not installed")
    from medattn_edge.serving import write_repository

    with traced() as trace:
        write_repository([small_artifact], tmp_path / "repository")
    assert trace.lost == []
    files = [one for one in (tmp_path / "repository").rglob("*") if one.is_file()]
    assert len(files) == 6
    assert [one.name for one in files if trace.synced.get(identity(one)) != content_of(one)] == []


def test_a_staged_object_is_on_the_disk_before_anybody_has_it(place):
    with traced() as trace, place.file.open("rb") as file, place.spool.stage(file) as staged:
        assert trace.synced[identity(staged.path)] == content_of(place.file)


def test_a_destination_is_probed_with_bytes_that_reach_the_disk(tmp_path):
    with traced() as trace:
        probe(tmp_path)
    assert list(trace.synced.values()) == [hashlib.sha256(bytes(4096)).hexdigest()]


def test_an_object_is_on_the_disk_when_its_row_says_so(tmp_path):
    """With the row comes the success that its sender is told."""
    node = Node(tmp_path / "node")
    data, header = sample(1, 1)
    record = node.store.series.record_received
    with traced() as trace, pytest.MonkeyPatch.context() as patch:
        seen = []

        def recorded(instance):
            seen.append(trace.problems() + trace.unsynced(node.spool.folder(node.key(1)) / instance.name))
            return record(instance)

        patch.setattr(node.store.series, "record_received", recorded)
        node.custody.keep(data, header, "SCANNER")
    node.store.close()
    assert seen == [[]]


# Each of these is how one of the functions above would look with a step left out.


def name_first(place: Place) -> None:
    (place.site / "draft").write_bytes(b"content")
    (place.site / "draft").rename(place.site / "name")


def write_after_sync(place: Place) -> None:
    with (place.site / "draft").open("wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
        file.write(b" and more")
    rename_durably(place.site / "draft", place.site / "name")


def forget_the_folder(place: Place) -> None:
    write_durably(place.site / "draft", b"content")
    (place.site / "draft").rename(place.site / "name")


def forget_the_folder_of_the_old_name(place: Place) -> None:
    write_durably(place.site / "draft", b"content")
    (place.site / "draft").rename(place.spool.root / "name")
    handle = os.open(place.spool.root, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def forget_a_file_of_a_folder(place: Place) -> None:
    make_folder(place.site / "draft")
    (place.site / "draft" / "a").write_bytes(b"content")
    rename_durably(place.site / "draft", place.site / "name")


@pytest.mark.parametrize(
    "wrong",
    [name_first, write_after_sync, forget_the_folder, forget_the_folder_of_the_old_name, forget_a_file_of_a_folder],
)
def test_a_step_that_is_left_out_is_seen(wrong, place):
    with traced() as trace:
        wrong(place)
    assert trace.problems()


def renaming_functions(source: str) -> list[str]:
    """The functions that rename, link or make a folder, by their innermost name."""
    found = []

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # `str.replace` has two arguments, `datetime.replace` and `dataclasses.replace` have names.
            of_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
            alone = len(node.args) == 1 and not node.keywords
            if (
                node.func.attr in {"rename", "renames", "hardlink_to", "link", "link_to"}
                or (node.func.attr == "replace" and (of_os or alone))
                or (node.func.attr == "move" and getattr(node.func.value, "id", "") == "shutil")
            ):
                found.append(name)
        for child in ast.iter_child_nodes(node):
            visit(child, name)

    visit(ast.parse(source), "")
    return found


# It moves drafts into the temporary files of `replacing`, which syncs them before their names.
INTO_REPLACING = ("medattn_edge/artifact.py:move_into",)
# The name of a lock in a temporary folder, which nothing is read from: after a power cut it is left over, held or not.
OF_A_LOCK = ("medattn_edge/process/held_folder.py:held_folder",)


def test_every_function_that_renames_is_tried_here():
    known = {*PUBLISHERS, *WHOLE_FILES, *INTO_REPLACING, *OF_A_LOCK}
    found = set()
    for room in ("medattn_edge", "cli"):
        for path in sorted((ROOT / room).rglob("*.py")):
            names = renaming_functions(path.read_text(encoding="utf-8"))
            found |= {f"{path.relative_to(ROOT)}:{name}" for name in names}
    assert found - known == set(), "add it to PUBLISHERS, with a call of it"
    assert {*WHOLE_FILES, *INTO_REPLACING, *OF_A_LOCK} <= found


@pytest.mark.parametrize(
    "source",
    ["def f():\n os.replace(a, b)", "def f():\n a.rename(b)", "def f():\n a.replace(b)", "def f():\n b.hardlink_to(a)"],
)
def test_a_new_way_to_rename_is_seen(source):
    assert renaming_functions(source) == ["f"]
    assert renaming_functions("def f():\n 'a'.replace('b', 'c'); replace(a, b=1); t.replace(tzinfo=None)") == []
