"""Of the libraries that read and write scans only what they promise is used: their floors have no upper bound."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

LIBRARIES = {"pydicom", "highdicom", "nibabel", "nrrd", "PIL", "numpy"}
PRIVATE = re.compile(r"_(?!_)\w+")


def private_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names below the libraries with a part that begins with one underscore."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield bound[alias.asname or alias.name]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in bound:
                yield f"{bound[first]}.{rest}"


def found_in(text: str) -> set[str]:
    names = (name.split(".") for name in private_names(ast.parse(text)))
    return {".".join(parts) for parts in names if parts[0] in LIBRARIES and any(map(PRIVATE.fullmatch, parts))}


def test_a_private_name_is_seen_however_it_is_written():
    assert found_in("from pydicom._uid_dict import UID_dictionary") == {"pydicom._uid_dict.UID_dictionary"}
    assert found_in("import nibabel as n\nn._x.y") == {"nibabel._x", "nibabel._x.y"}
    assert found_in("import pydicom.pixels\npydicom.pixels._f()") == {"pydicom.pixels._f"}
    assert found_in("from highdicom import seg\nseg._helper.x\nimport numpy as np\nnp.__version__") == {
        "highdicom.seg._helper",
        "highdicom.seg._helper.x",
    }
    assert found_in("import os\nos._exit(0)") == set()


@pytest.mark.parametrize("folder", ["medattn_edge", "cli"])
def test_no_private_name_of_a_library_is_used(folder):
    used = {path.name: found_in(path.read_text(encoding="utf-8")) for path in ROOT.glob(f"{folder}/**/*.py")}
    assert {name: names for name, names in used.items() if names} == {}


def test_no_private_attribute_of_an_object_is_used_in_this_room():
    for path in Path(ROOT, "medattn_edge", "io").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
                assert ast.unparse(node.value) in ("self", "cls", "os"), f"{path.name}:{node.lineno}"


def test_what_pydicom_has_without_a_word_in_its_reference_is_still_there():
    """`seq_item_tell`: where an item of a sequence begins, by which the links of a DICOMDIR are followed."""
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from io import BytesIO

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    outer, items = Dataset(), [Dataset(), Dataset()]
    for number, item in enumerate(items):
        item.InstanceNumber = number
    outer.ReferencedSeriesSequence = items
    outer.file_meta = FileMetaDataset()
    outer.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    pydicom.dcmwrite(file, outer, implicit_vr=False, little_endian=True)
    whole = file.getvalue()
    read = pydicom.dcmread(BytesIO(whole), force=True)
    places = [item.seq_item_tell for item in read.ReferencedSeriesSequence]
    assert [whole[place : place + 4] for place in places] == [b"\xfe\xff\x00\xe0"] * 2
    assert places[0] < places[1]
