"""What is published is durable: every byte synced before its name changes, and the name synced after.

A killed process cannot show a dropped fsync, since the kernel writes all the same; the order of the calls can. The
calls really happen: they are only written down on their way.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medattn_edge.atomic import replacing
from medattn_edge.scanner.deliver.folder import probe, put
from medattn_edge.scanner.store.dead_letters import write_letter
from medattn_edge.scanner.store.disk import make_folder, remove_folder, rename_durably, write_durably
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.records import Delivery, Output
from medattn_edge.scanner.store.spool import Spool
from tests.support import ROOT
from tests.support.durable_node import Node, sample

KEY = "0123456789abcdef0123456789abcdef"
RENAMES = ("rename", "replace", "link", "mkdir")


def content_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Trace:
    """The calls in their order.

    Attributes:
        synced: (device, inode) of a file -> the content that it had when it was synced last.
        folders: (device, inode) of a folder that was synced -> when, counted in calls.
        named: path that got a name -> when.
        left: folder that lost a name -> when.
    """

    synced: dict[tuple[int, int], str] = field(default_factory=dict)
    folders: dict[tuple[int, int], int] = field(default_factory=dict)
    named: dict[Path, int] = field(default_factory=dict)
    left: dict[Path, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    now: int = 0

    def sync(self, handle: int) -> None:
        status = os.fstat(handle)
        identity = status.st_dev, status.st_ino
        self.now += 1
        if os.path.isdir(f"/dev/fd/{handle}"):  # noqa: PTH112 - a descriptor, not a path of ours
            self.folders[identity] = self.now
        else:
            self.synced[identity] = content_of(Path(f"/dev/fd/{handle}"))

    def name(self, source: Path | None, target: Path, call: Callable[[], None]) -> None:
        """A file or folder gets its name by the call: what is in it has to be on the disk by then."""
        if source is not None and not target.name.startswith("."):  # those are unfinished, and removed at a start
            self.lost += [f"{target} gets its name before {one.name} is synced" for one in self.unsynced(source)]
        call()
        self.now += 1
        self.named[target] = self.now
        if source is not None and source.parent != target.parent:
            self.left[source.parent] = self.now

    def unsynced(self, path: Path) -> list[Path]:
        """Files at or below the path whose bytes are not synced, and folders below it whose names are not."""
        inside = sorted(path.rglob("*")) if path.is_dir() else []
        wrong = [one for one in (path, *inside) if one.is_file() and self.synced.get(identity(one)) != content_of(one)]
        folders = [one for one in (path, *inside) if one.is_dir()]
        named = {one: max((when for at, when in self.named.items() if at.parent == one), default=0) for one in folders}
        return wrong + [
            one for one in folders if self.folders.get(identity(one), 0) <= named[one] and any(one.iterdir())
        ]

    def problems(self) -> list[str]:
        """What a power cut now could take away."""
        changed = [(path.parent, path, when) for path, when in self.named.items()]
        changed += [(folder, folder, when) for folder, when in self.left.items()]
        names = [
            f"the name {path} is not synced in {folder}"
            for folder, path, when in changed
            if folder.is_dir() and path.exists() and self.folders.get(identity(folder), 0) < when
        ]
        return self.lost + names


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def traced() -> Iterator[Trace]:
    """Write down every fsync, rename, link and new folder of the block."""
    trace = Trace()
    with pytest.MonkeyPatch.context() as patch:
        fsync = os.fsync

        def synced(handle: int) -> None:
            fsync(handle)
            trace.sync(handle)

        patch.setattr(os, "fsync", synced)
        for name, real in {name: getattr(os, name) for name in RENAMES}.items():

            def renamed(*paths, real=real, makes=name == "mkdir", **more):
                source, target = (None, paths[0]) if makes else paths[:2]
                before = None if source is None else Path(os.fsdecode(source))
                trace.name(before, Path(os.fsdecode(target)), lambda: real(*paths, **more))

            patch.setattr(os, name, renamed)
        yield trace


@dataclass(frozen=True)
class Place:
    """Where a publisher works: a spool, a folder of the site, and a file with bytes in it."""

    spool: Spool
    site: Path
    file: Path


def publish_result(place: Place) -> Path:
    folder = place.spool.working_folder(KEY, 1, 1)
    (folder / "maps").mkdir()
    (folder / "seg.dcm").write_bytes(b"segmentation")
    (folder / "maps" / "gate.nii.gz").write_bytes(b"map")
    return place.spool.publish(folder, KEY, 1)


def publish_result_again(place: Place) -> Path:
    publish_result(place)
    return publish_result(place)


def deliver(place: Place) -> Path:
    put(place.site, KEY, 1, [place.file])
    return place.site / KEY / "v1" / place.file.name


def deliver_beside_a_file_that_is_there(place: Place) -> Path:
    put(place.site, KEY, 1, [place.file])
    other = place.file.with_name("overlay.png")
    other.write_bytes(b"picture")
    put(place.site, KEY, 1, [place.file, other])
    return place.site / KEY / "v1"


def dead_letter(place: Place) -> Path:
    publish_result(place)
    delivery = Delivery(1, KEY, 1, "pacs", 2, (Output("seg", "seg.dcm", "2.25.1"),))
    return write_letter(place.spool.layout, delivery, "no_connection", 1_000_000.0)


def keep_staged(place: Place) -> Path:
    with place.file.open("rb") as file, place.spool.stage(file) as staged:
        place.spool.keep(KEY, "a.dcm", staged)
    return place.spool.folder(KEY) / "a.dcm"


def keep_bytes(place: Place) -> Path:
    place.spool.keep(KEY, "a.dcm", b"received")
    return place.spool.folder(KEY) / "a.dcm"


def keep_object(place: Place) -> Path:
    with place.file.open("rb") as file, place.spool.stage(file) as staged:
        return place.spool.keep_object("unreadable-0.dcm", staged)


def set_aside(place: Place) -> Path:
    keep_bytes(place)
    place.spool.set_object_aside(KEY, "a.dcm", "replaced")
    return place.spool.objects / f"replaced-{KEY}-a.dcm"


def quarantine(place: Place) -> Path:
    keep_bytes(place)
    place.spool.quarantine(KEY)
    return place.spool.quarantined / KEY


def restore(place: Place) -> Path:
    place.spool.restore(quarantine(place).name)
    return place.spool.incoming / KEY


def join_two_folders(place: Place) -> Path:
    """What somebody's copy makes: one name in both folders, another in one."""
    for folder in (place.spool.quarantined / KEY, place.spool.incoming / KEY):
        make_folder(folder)
        write_durably(folder / "a.dcm", str(folder).encode())
    write_durably(place.spool.quarantined / KEY / "b.dcm", b"alone")
    place.spool.restore(KEY)
    return place.spool.incoming / KEY


def recover_unreadable(place: Place) -> Path:
    node = Node(place.spool.root.parent / "node")
    name = node.spool.incoming / node.keep(1, 1).key
    write_durably(name / "other.dcm", b"nothing that can be read")
    node.restart()
    node.store.close()
    return node.spool.objects / f"unreadable-{name.name}-other.dcm"


def write_bytes(place: Place) -> Path:
    write_durably(place.site / "site.json", b"{}")
    return place.site / "site.json"


def write_stream(place: Place) -> Path:
    write_durably(place.site / "site.json", io.BytesIO(bytes(3 << 20)))
    return place.site / "site.json"


def make_key(place: Place) -> Path:
    site_key(place.site / "site.key")
    return place.site / "site.key"


def rename(place: Place) -> Path:
    (place.site / "new").mkdir()
    write_durably(place.site / "old", b"content")
    rename_durably(place.site / "old", place.site / "new" / "name")
    return place.site / "new" / "name"


def new_folder(place: Place) -> Path:
    make_folder(place.site / "folder")
    return place.site / "folder"


def removed_folder(place: Place) -> Path:
    make_folder(place.site / "folder")
    remove_folder(place.site / "folder")
    return place.site


PUBLISHERS: dict[str, tuple[Callable[[Place], Path], ...]] = {
    "medattn_edge/scanner/store/disk.py:write_durably": (write_bytes, write_stream),
    "medattn_edge/scanner/store/disk.py:rename_durably": (
        rename,
        removed_folder,
        set_aside,
        keep_staged,
        keep_object,
        recover_unreadable,
    ),
    "medattn_edge/scanner/store/disk.py:make_folder": (new_folder, keep_bytes),
    "medattn_edge/scanner/store/keys.py:_create": (make_key,),
    "medattn_edge/scanner/store/spool.py:_bring": (quarantine, restore, join_two_folders),
    "medattn_edge/scanner/store/spool.py:publish": (publish_result, publish_result_again),
    "medattn_edge/scanner/store/dead_letters.py:write_letter": (dead_letter,),
    "medattn_edge/scanner/deliver/folder.py:put": (deliver, deliver_beside_a_file_that_is_there),
}
# What promises whole files and not that they outlive a power cut: of these the bytes are synced, the names are not.
WHOLE_FILES = ("medattn_edge/atomic.py:replacing",)
ALL = [(where, publisher) for where, publishers in PUBLISHERS.items() for publisher in publishers]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "site").mkdir()
    (tmp_path / "seg.dcm").write_bytes(b"some bytes" * 1000)
    return Place(Spool(tmp_path / "root"), tmp_path / "site", tmp_path / "seg.dcm")


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


def test_every_function_that_renames_is_tried_here():
    known = {*PUBLISHERS, *WHOLE_FILES, *INTO_REPLACING}
    found = set()
    for room in ("medattn_edge", "cli"):
        for path in sorted((ROOT / room).rglob("*.py")):
            names = renaming_functions(path.read_text(encoding="utf-8"))
            found |= {f"{path.relative_to(ROOT)}:{name}" for name in names}
    assert found - known == set(), "add it to PUBLISHERS, with a call of it"
    assert {*WHOLE_FILES, *INTO_REPLACING} <= found


@pytest.mark.parametrize(
    "source",
    ["def f():\n os.replace(a, b)", "def f():\n a.rename(b)", "def f():\n a.replace(b)", "def f():\n b.hardlink_to(a)"],
)
def test_a_new_way_to_rename_is_seen(source):
    assert renaming_functions(source) == ["f"]
    assert renaming_functions("def f():\n 'a'.replace('b', 'c'); replace(a, b=1); t.replace(tzinfo=None)") == []
