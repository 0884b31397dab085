"""Label names and what they are in the patient."""

from __future__ import annotations

import pytest

from medattn_edge.io.dicom import anatomy
from medattn_edge.io.dicom.anatomy import anatomy_of
from medattn_edge.spec import Code


@pytest.mark.parametrize(
    ("name", "value", "side"),
    [
        ("lung", "39607008", None),
        ("lungs", "39607008", "Bilateral"),
        ("right_lung", "39607008", "Right"),
        ("Lung, left", "39607008", "Left"),
        ("left and right kidneys", "64033007", "Bilateral"),
        ("kidney_left", "64033007", "Left"),
        ("Pancreas", "15776009", None),
        ("urinary bladder", "89837001", None),
        ("prostate", "41216001", None),
        ("Left-Ventricle", "87878005", None),
        ("ribs", "113197003", None),
        ("lung_upper_lobe_left", "45653009", "Left"),
        ("oesophagus", "32849002", None),
        ("vertebrae", "51282000", None),
    ],
)
def test_common_organs_are_known_by_name(name: str, value: str, side: str | None) -> None:
    found = anatomy_of(name, {})
    assert found is not None
    assert (found.type.value, found.type.scheme, found.category.value) == (value, "SCT", "91723000")
    assert (found.side.meaning if found.side else None) == side


def test_what_is_wrong_in_an_organ_has_the_organ_as_its_region() -> None:
    found = anatomy_of("cysts of the right kidney", {})
    assert found is not None
    assert (found.category.value, found.type.meaning) == ("49755003", "Cyst")
    assert found.region == Code("64033007", "SCT", "Kidney")
    assert found.side == Code("24028007", "SCT", "Right")
    alone = anatomy_of("mass", {})
    assert alone is not None
    assert alone.region is None


@pytest.mark.parametrize(
    "name",
    ["organ_1", "liver 5", "rib_left_1", "left", "", "lung lobe", "tumour core", "not lung", "liver tumour cyst", "肝"],
)
def test_a_name_that_says_more_or_less_than_an_organ_is_not_known(name: str) -> None:
    assert anatomy_of(name, {}) is None


def test_the_specs_code_comes_first() -> None:
    codes = {"liver": Code("1", "99LOCAL", "Something"), "x": Code("108369006", "SCT", "Neoplasm")}
    found, lesion = anatomy_of("liver", codes), anatomy_of("x", codes)
    assert found is not None
    assert lesion is not None
    assert (found.type, found.category.value) == (codes["liver"], "91723000")
    assert lesion.category.value == "49755003"


def test_every_code_is_in_the_dictionary_of_the_standard() -> None:
    codedict = pytest.importorskip("pydicom.sr.codedict", reason="the extra dicom is not installed")
    known: dict[str, set[str]] = {}
    for name in codedict.codes.SCT.dir():
        try:
            code = getattr(codedict.codes.SCT, name)
        except RuntimeError:
            continue  # pydicom knows two codes of this name
        known.setdefault(code.value, set()).add(code.meaning)
    table = [*anatomy._ORGANS.values(), *anatomy._ABNORMALITIES.values()]
    table += [(code.value, code.meaning) for code in (*anatomy._SIDES.values(), anatomy.TISSUE, anatomy.STRUCTURE)]
    assert len(table) > 60
    assert [entry for entry in table if entry[1] not in known.get(entry[0], ())] == []
    assert set(anatomy._ALSO.values()) | anatomy._PAIRED <= set(anatomy._ORGANS)
