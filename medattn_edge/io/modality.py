"""Is a scan of the modality that a network was trained on? By its headers where it has some, else by its values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import ModalityError
from medattn_edge.gates import HOUNSFIELD
from medattn_edge.spec import ModelSpec, modalities_of
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.series import Series

_LOWEST_OF_CT: Final = HOUNSFIELD.limits["lowest_of_ct"]
_AIR_HU: Final = HOUNSFIELD.limits["air_hu"]


@dataclass(frozen=True)
class ModalityCheck:
    """What was compared before a network saw a scan.

    Attributes:
        network: what its spec says, empty where it says nothing.
        scan: what the scan's headers say, as `CT` or `PT+CT`, empty where they say nothing.
        contradicted: the two differ, and the user wanted it all the same.
        body_part: whether BodyPartExamined is the network's; None where one of the two does not say it. Never the
            text itself, into which people type anything.
    """

    network: str
    scan: str
    contradicted: bool = False
    body_part: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def check_modality(spec: ModelSpec, series: Sequence[Series], any_modality: bool = False) -> ModalityCheck:
    """Compare a scan's headers with a network's spec.

    Args:
        spec: of the network.
        series: of the scan, one for each channel that is DICOM (`Scan.all_series`); none of a file that says nothing.
        any_modality: let a contradiction pass; it is then said in the outcome.

    Raises:
        ModalityError: the scan is of another modality than the network was trained on.
    """
    wanted = modalities_of(spec.modality)
    found = tuple(dict.fromkeys(one.modality for one in series if one.modality))
    others = [modality for modality in found if wanted and modality not in wanted]
    check = ModalityCheck("+".join(wanted), "+".join(found), bool(others), _same_part(spec, series))
    if others and not any_modality:
        raise ModalityError(
            f"{others[0]} images for a network of {check.network}",
            expected=f"a scan of the modality {check.network}",
            hint="choose another series or network; infer --any-modality, or any_modality = true of a node's model, "
            "takes it all the same",
        )
    return check


def notes_of_modality(spec: ModelSpec, check: ModalityCheck, volume: Volume) -> tuple[str, ...]:
    """What was assumed of a scan's modality, and what speaks against it, for people.

    Args:
        spec: of the network.
        check: of `check_modality`.
        volume: the scan as it was read, (D, H, W) or (C, D, H, W) in stored values.
    """
    notes = []
    if check.contradicted:
        notes.append(f"the scan is {check.scan}, and the network is one of {check.network}: nobody trained it for this")
    elif not check.network:
        notes.append(f"the network does not say its modality: {check.scan or 'the scan'} was taken for it unchecked")
    elif not check.scan:
        notes.append(f"the scan does not say its modality: taken for {check.network}, as the network expects")
    if check.body_part is False:
        notes.append(f"the scan's body part examined is another than the network's {spec.body_part}")
    return (*notes, *_notes_of_values(check.network, volume))


def _notes_of_values(modality: str, volume: Volume) -> tuple[str, ...]:
    """What the values say: air and fat lie below 0 HU, and nothing but CT stores values as low as air's."""
    if modality not in ("CT", "MR", "PT"):  # of several channels each has its own
        return ()
    lowest = float(volume.voxels.min())
    if modality == "CT" and lowest >= _LOWEST_OF_CT:
        return (
            f"the scan's lowest value is {lowest:g}: a CT in HU has fat and air below {_LOWEST_OF_CT:g}, so this may "
            "be no CT, or in other units, and the network expects HU",
        )
    if modality != "CT" and lowest < _AIR_HU:
        return (f"the scan's values go down to {lowest:g}, as a CT's in HU do, and the network is one of {modality}",)
    return ()


def _same_part(spec: ModelSpec, series: Sequence[Series]) -> bool | None:
    """Whether one text is part of the other: CHEST is in CHESTABDOMEN."""
    wanted, found = _bare(spec.body_part), [_bare(one.body_part) for one in series if _bare(one.body_part)]
    if not wanted or not found:
        return None
    return all(wanted in part or part in wanted for part in found)


def _bare(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text.upper())
