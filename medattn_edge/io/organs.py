"""The accustomed colours of organs, and one colour for each label of a network: apart from each other and from grey."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from medattn_edge import gates
from medattn_edge.io.colours import RGB, lab_of, label_colour, rgb_of
from medattn_edge.io.dicom.anatomy import anatomy_of
from medattn_edge.spec import Code
from medattn_edge.volume import Array

_BONE, _VEIN, _MASS = (241, 214, 145), (0, 151, 206), (144, 238, 144)
# SNOMED CT code -> red, green, blue: figures of the table "GenericAnatomyColors" of 3D Slicer, 2010 (M. Halle,
# F. Talos, R. Kikinis, S. Pieper, N. Aucoin, M. Jakab), which its users are accustomed to. What the table has under a
# wider name only (a femur is bone, a portal vein a vein, a tumour a mass) has the colour of that.
_ACCUSTOMED: Final[Mapping[str, RGB]] = {
    "23451007": (249, 186, 150),  # adrenal gland
    "15825003": (224, 97, 76),  # aorta
    "89837001": (222, 154, 132),  # bladder
    "272673000": _BONE,
    "12738006": (250, 250, 225),  # brain
    "51299004": (205, 179, 108),  # clavicle
    "71854001": (204, 168, 143),  # colon
    "14742008": (204, 168, 143),  # large intestine
    "38848004": (255, 253, 229),  # duodenum
    "32849002": (211, 171, 143),  # esophagus
    "81745001": (194, 142, 0),  # eye
    "256674009": (230, 220, 70),  # fat
    "71341001": _BONE,  # femur
    "28231008": (139, 150, 98),  # gallbladder
    "80891009": (206, 110, 84),  # heart
    "85050009": _BONE,  # humerus
    "64131007": _VEIN,  # inferior vena cava
    "48345005": _VEIN,  # superior vena cava
    "32764006": _VEIN,  # portal vein
    "64033007": (185, 102, 83),  # kidney
    "82471001": (203, 108, 81),  # left atrium
    "87878005": (152, 55, 13),  # left ventricle
    "73829009": (210, 115, 89),  # right atrium
    "53085002": (181, 85, 57),  # right ventricle
    "10200004": (221, 130, 101),  # liver
    "39607008": (197, 165, 145),  # lung
    "45653009": (172, 138, 115),  # upper lobe of lung
    "72481006": (202, 164, 140),  # middle lobe of right lung
    "90572001": (224, 186, 162),  # lower lobe of lung
    "91609006": (222, 198, 101),  # mandible
    "71616004": (192, 104, 88),  # muscle
    "15497006": (213, 141, 113),  # ovary
    "15776009": (249, 180, 111),  # pancreas
    "45289007": (70, 163, 117),  # parotid gland
    "41216001": (230, 158, 140),  # prostate
    "81040000": (0, 122, 171),  # pulmonary artery
    "113197003": (253, 232, 158),  # rib
    "54735007": _BONE,  # sacrum
    "79601000": _BONE,  # scapula
    "39937001": (177, 122, 101),  # skin
    "30315005": (205, 167, 142),  # small intestine
    "2748008": (244, 214, 49),  # spinal cord
    "421060004": _BONE,  # spine
    "78961009": (157, 108, 162),  # spleen
    "56873002": (244, 217, 154),  # sternum
    "69695003": (216, 132, 105),  # stomach
    "69748006": (62, 162, 114),  # thyroid
    "44567001": (182, 228, 255),  # trachea
    "35039007": (255, 181, 158),  # uterus
    "51282000": _BONE,  # vertebra
    "108369006": _MASS,  # neoplasm
    "52988006": _MASS,  # lesion
    "27925004": _MASS,  # nodule
    "4147007": _MASS,  # mass
    "367643001": (205, 205, 100),  # cyst
}
_STEPS = (0.0, 12.0, -12.0, 24.0, -24.0)  # of lightness
_TURNS = (0.0, 35.0, -35.0, 70.0, -70.0, 120.0, -120.0, 180.0)  # of the hue, degrees
_PALETTE = 40  # colours of numbers that are tried


def organ_colour(name: str, codes: Mapping[str, Code] | None = None) -> RGB | None:
    """The accustomed colour of a label, by its code or else by its name; None where neither is in the table.

    Args:
        name: of the label, such as right_kidney.
        codes: of labels, by name, as a spec has them.
    """
    anatomy = anatomy_of(name, codes or {})
    return None if anatomy is None or anatomy.type.scheme != "SCT" else _ACCUSTOMED.get(anatomy.type.value)


def label_colours(names: Sequence[str], codes: Mapping[str, Code] | None = None, *, on_grey: bool = False) -> list[RGB]:
    """Red, green, blue (0..255) of every label value.

    An organ has its accustomed colour, any other label that of its value (`label_colour`). One that comes too near to
    that of another label, by CIELab distance (CIE 1976, D65), is moved: in lightness, so that the left kidney
    is another shade of the right one's colour; where that is not enough in hue as well, or to another colour. With more
    labels than there are colours so far apart, each is as far as possible.

    Args:
        names: names[value] names a label; names[0] is the background, or nothing.
        codes: of labels, by name, as a spec has them.
        on_grey: for outlines on a scan: also as far from every grey, and further from each other. An organ's colour is
            made stronger for that, and keeps its hue.
    """
    limits = gates.LABEL_COLOURS.limits
    apart = limits["min_drawn_distance"] if on_grey else limits["min_distance"]
    chroma = limits["min_grey_distance"] if on_grey else 0.0
    organs = [organ_colour(name, codes) if value else None for value, name in enumerate(names)]
    colours = [(0, 0, 0)] * len(names)
    taken = np.empty((0, 3))
    # The first of each kind of organ before its other side and before what nobody is accustomed to.
    for value in sorted(
        range(1, len(names)), key=lambda one: (organs[one] is None or organs.index(organs[one]) < one, one)
    ):
        colours[value] = _placed(organs[value] or label_colour(value), value, taken, apart, chroma)
        taken = np.vstack([taken, lab_of(colours[value])])
    return colours


def _placed(wanted: RGB, value: int, taken: Array, apart: float, chroma: float) -> RGB:
    """The first candidate that is so far apart from what is taken, or else the one that is furthest."""
    best, furthest = wanted, -1.0
    for colour in _candidates(wanted, value, chroma):
        seen = lab_of(colour)
        distance = float(np.linalg.norm(taken - seen, axis=1).min(initial=math.inf))
        if math.hypot(seen[1], seen[2]) < chroma:
            continue
        if distance > furthest:
            best, furthest = colour, distance
        if distance >= apart:
            break
    return best


def _candidates(wanted: RGB, value: int, chroma: float) -> Iterator[RGB]:
    """The colour itself, the nearest ones of the same hue, of others, and those of numbers."""
    lightness, red_green, blue_yellow = lab_of(wanted)
    strength, hue = math.hypot(red_green, blue_yellow), math.atan2(blue_yellow, red_green)
    if strength >= chroma:
        yield wanted
    strong = max(strength, chroma and chroma + 4)  # what lies outside of the screen's colours loses some of it
    for turn in _TURNS:
        for step in _STEPS:
            angle, light = hue + math.radians(turn), min(max(lightness + step, 35.0), 80.0 if chroma else 97.0)
            yield rgb_of(np.array([light, strong * math.cos(angle), strong * math.sin(angle)]))
    for number in range(value, value + _PALETTE):
        yield label_colour(number)
