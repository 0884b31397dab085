"""What a label is in the patient: SNOMED CT codes of common organs, found by the label's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medattn_edge.spec import Code

STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
_SIDES = {
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
    "both": Code("51440002", "SCT", "Bilateral"),
}
_SIDES["bilateral"] = _SIDES["both"]

_ABNORMALITIES = {
    "tumor": ("108369006", "Neoplasm"),
    "tumour": ("108369006", "Neoplasm"),
    "neoplasm": ("108369006", "Neoplasm"),
    "lesion": ("52988006", "Lesion"),
    "nodule": ("27925004", "Nodule"),
    "mass": ("4147007", "Mass"),
    "cyst": ("367643001", "Cyst"),
}

_ORGANS = {
    "adrenal gland": ("23451007", "Adrenal gland"),
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Bladder"),
    "bone": ("272673000", "Bone"),
    "brain": ("12738006", "Brain"),
    "brain stem": ("119238007", "Brain Stem"),
    "breast": ("76752008", "Breast"),
    "cerebellum": ("113305005", "Cerebellum"),
    "clavicle": ("51299004", "Clavicle"),
    "colon": ("71854001", "Colon"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "eye": ("81745001", "Eye"),
    "fat": ("256674009", "Fat"),
    "femur": ("71341001", "Femur"),
    "gallbladder": ("28231008", "Gallbladder"),
    "heart": ("80891009", "Heart"),
    "hippocampus": ("5366008", "Hippocampus"),
    "humerus": ("85050009", "Humerus"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "kidney": ("64033007", "Kidney"),
    "large intestine": ("14742008", "Large intestine"),
    "left atrium": ("82471001", "Left atrium"),
    "left ventricle": ("87878005", "Left ventricle"),
    "liver": ("10200004", "Liver"),
    "lower lobe lung": ("90572001", "Lower lobe of lung"),
    "lung": ("39607008", "Lung"),
    "mandible": ("91609006", "Mandible"),
    "middle lobe right lung": ("72481006", "Middle lobe of right lung"),
    "muscle": ("71616004", "Muscle"),
    "ovary": ("15497006", "Ovary"),
    "pancreas": ("15776009", "Pancreas"),
    "parotid gland": ("45289007", "Parotid gland"),
    "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"),
    "pulmonary artery": ("81040000", "Pulmonary artery"),
    "rectum": ("34402009", "Rectum"),
    "rib": ("113197003", "Rib"),
    "right atrium": ("73829009", "Right atrium"),
    "right ventricle": ("53085002", "Right ventricle"),
    "sacrum": ("54735007", "Sacrum"),
    "scapula": ("79601000", "Scapula"),
    "skin": ("39937001", "Skin"),
    "small intestine": ("30315005", "Small intestine"),
    "spinal cord": ("2748008", "Spinal cord"),
    "spine": ("421060004", "Spine"),
    "spleen": ("78961009", "Spleen"),
    "sternum": ("56873002", "Sternum"),
    "stomach": ("69695003", "Stomach"),
    "superior vena cava": ("48345005", "Superior vena cava"),
    "thyroid": ("69748006", "Thyroid"),
    "trachea": ("44567001", "Trachea"),
    "upper lobe lung": ("45653009", "Upper lobe of lung"),
    "uterus": ("35039007", "Uterus"),
    "vertebra": ("51282000", "Vertebra"),
}
_ALSO = {
    "adrenal": "adrenal gland",
    "brainstem": "brain stem",
    "gall bladder": "gallbladder",
    "large bowel": "large intestine",
    "oesophagus": "esophagus",
    "parotid": "parotid gland",
    "small bowel": "small intestine",
    "thyroid gland": "thyroid",
    "urinary bladder": "bladder",
    "vertebral column": "spine",
    "vertebrae": "vertebra",
}
# "lungs" are the left and the right one; "ribs" need not be all of them.
_PAIRED = {"adrenal gland", "breast", "eye", "kidney", "lung", "ovary", "parotid gland"}


@dataclass(frozen=True)
class Anatomy:
    """How a segment is coded.

    Attributes:
        category: what kind of thing it is.
        type: which one.
        side: of the region where there is one, as in a cyst in the right kidney, else of the thing.
        region: the organ that it is in.
    """

    category: Code
    type: Code
    side: Code | None = None
    region: Code | None = None


def anatomy_of(name: str, codes: Mapping[str, Code]) -> Anatomy | None:
    """The anatomy of a label: by its code where `codes` has one, else by its name; None when neither is known.

    Names are read without regard to case, order and separators: "right_lung", "Lung right", "liver tumour".
    """
    if name in codes:
        known = {value for value, _ in _ABNORMALITIES.values()}
        return Anatomy(_ABNORMAL if codes[name].value in known else STRUCTURE, codes[name])
    # A number is a word too: "liver 5" is a part of the liver, and its code is not the liver's.
    words = frozenset(re.findall(r"[^\W_]+", name.lower())) - {"of", "the", "and"}
    if organ := _organ(words):
        return Anatomy(STRUCTURE, *organ)
    abnormal = [word for word in words if _singular(word) in _ABNORMALITIES]
    if len(abnormal) != 1:
        return None
    kind = _sct(_ABNORMALITIES[_singular(abnormal[0])])
    where = words - set(abnormal)
    place = _organ(where)
    if place:
        return Anatomy(_ABNORMAL, kind, place[1], place[0])
    return None if where else Anatomy(_ABNORMAL, kind)


def _organ(words: frozenset[str]) -> tuple[Code, Code | None] | None:
    """(organ, side) that these words name and nothing else."""
    sides = words & set(_SIDES)
    # The left ventricle is a thing of its own, a left kidney is a kidney on the left.
    for left, side in ((words, None), (words - sides, _side(sides))):
        for candidate in (left, frozenset(map(_singular, left))):
            if key := _KEYS.get(candidate):
                both = candidate != left and key in _PAIRED and not sides
                return _sct(_ORGANS[key]), _SIDES["both"] if both else side
        if not sides:
            break
    return None


def _side(words: frozenset[str]) -> Code | None:
    if not words:
        return None
    return _SIDES["both"] if len(words) > 1 else _SIDES[next(iter(words))]


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _sct(entry: tuple[str, str]) -> Code:
    return Code(entry[0], "SCT", entry[1])


_KEYS = {frozenset(key.split()): key for key in _ORGANS} | {frozenset(also.split()): key for also, key in _ALSO.items()}
