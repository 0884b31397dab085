"""Every function that publishes a file or a folder, with a call of each."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medattn_edge.cohort import Case, CohortSettings
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import jobs_of
from medattn_edge.cohort.records import write_record
from medattn_edge.deploy.release_stage import put_in_place
from medattn_edge.deploy.work_folder import WorkFolder
from medattn_edge.scanner.deliver.folder import put
from medattn_edge.scanner.store.dead_letters import write_letter
from medattn_edge.scanner.store.disk import make_folder, remove_folder, rename_durably, write_durably
from medattn_edge.scanner.store.keys import site_key
from medattn_edge.scanner.store.records import Delivery, Output
from medattn_edge.scanner.store.spool import Spool
from tests.support.durable_node import Node

KEY = "0123456789abcdef0123456789abcdef"


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


def new_work_folder(place: Place) -> Path:
    with WorkFolder(place.site / "release.deploy").opened() as work:
        return work.path


def publish_stage(place: Place) -> Path:
    def run(folder: Path) -> dict[str, int]:
        (folder / "net.onnx").write_bytes(b"a network")
        (folder / "inner").mkdir()
        (folder / "inner" / "net.json").write_bytes(b"of a network")
        return {"answer": 1}

    with WorkFolder(place.site / "release.deploy").opened() as work:
        return work.publish("fp32.onnx", "key", run, float).folder


def publish_stage_again(place: Place) -> Path:
    publish_stage(place)
    return publish_stage(place)


def put_release(place: Place) -> Path:
    put_in_place(publish_stage(place) / "inner", place.site / "release")
    return place.site / "release"


def removed_work_folder(place: Place) -> Path:
    publish_stage(place)
    with WorkFolder(place.site / "release.deploy").opened() as work:
        work.remove()
    return place.site


def cohort_case(place: Place) -> Path:
    [job] = jobs_of([Case("a", None, "a.npz")], CohortSettings("{case}_seg.dcm", key_slices=1))
    with CohortFolder(place.site / "results").opened() as folder, folder.draft(job) as draft:
        for name in ("a_seg.dcm", "key_1.dcm"):
            (draft / name).write_bytes(b"labels")
        write_record(draft / "a.json", {"fingerprint": {}, "labels": [], "files": {"a_seg.dcm": "", "a_key_1.dcm": ""}})
    return place.site / "results"


def cohort_case_again(place: Place) -> Path:
    cohort_case(place)
    return cohort_case(place)


def cohort_table(place: Place) -> Path:
    with CohortFolder(place.site / "results").opened() as folder:
        folder.publish("volumes.csv", "case,label\n")
    return place.site / "results"


def new_place(folder: Path) -> Place:
    (folder / "site").mkdir()
    (folder / "seg.dcm").write_bytes(b"some bytes" * 1000)
    return Place(Spool(folder / "root"), folder / "site", folder / "seg.dcm")


PUBLISHERS: dict[str, tuple[Callable[[Place], Path], ...]] = {
    "medattn_edge/cohort/folder.py:draft": (cohort_case,),
    "medattn_edge/cohort/folder.py:_move_out": (cohort_case_again,),
    "medattn_edge/cohort/folder.py:publish": (cohort_table,),
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
    "medattn_edge/deploy/work_folder.py:_make": (new_work_folder,),
    "medattn_edge/deploy/work_folder.py:publish": (publish_stage, publish_stage_again),
    "medattn_edge/deploy/work_folder.py:remove": (removed_work_folder,),
    "medattn_edge/deploy/release_stage.py:put_in_place": (put_release,),
    "medattn_edge/scanner/deliver/folder.py:put": (deliver, deliver_beside_a_file_that_is_there),
}
ALL = [(where, publisher) for where, publishers in PUBLISHERS.items() for publisher in publishers]
