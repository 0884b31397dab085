"""What every object that is made from a series has in common: equipment, identity, dates, and no accident in it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from medattn_edge.errors import MissingDependency
from medattn_edge.io.dicom.source import Source
from medattn_edge.io.dicom.uids import Algorithm, Identity

MANUFACTURER = "medattn-edge"


def highdicom() -> Any:
    """The package, with the parts that are used.

    Raises:
        MissingDependency: when it is not installed.
    """
    try:
        import highdicom
        import highdicom.sc
        import highdicom.seg
        import highdicom.sr
    except ImportError as error:
        raise MissingDependency.of_extra("highdicom", "dicom") from error
    return highdicom


def software_versions(algorithm: Algorithm) -> tuple[str, str]:
    """Of this program and of the algorithm."""
    return f"medattn-edge {version('medattn-edge')}", algorithm.version


def describe_equipment(dataset: Any, algorithm: Algorithm) -> None:
    """Say what made an object that highdicom does not make."""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = algorithm.name
    dataset.SoftwareVersions = list(software_versions(algorithm))
    dataset.DeviceSerialNumber = algorithm.model_sha256


def complete(dataset: Any, source: Source, identity: Identity, texts: Iterable[str]) -> None:
    """Give a new object its patient, study and dates, and take out of it what changes from run to run.

    The character set is the source's, so that the patient's name stays the same bytes; it is UTF-8 when the texts need
    more than ASCII.

    Args:
        dataset: the object.
        source: that it is made from.
        identity: that its UIDs follow from.
        texts: what this program writes into it.
    """
    for element in source.identity:
        dataset.add(element)
    if not all(text.isascii() for text in texts):
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for kind in ("Series", "Content"):
        setattr(dataset, f"{kind}Date", source.date)
        setattr(dataset, f"{kind}Time", source.time)
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "DateOfSecondaryCapture", "TimeOfSecondaryCapture"):
        dataset.pop(keyword, None)
    for equipment in dataset.get("ContributingEquipmentSequence") or ():
        equipment.pop("ContributionDateTime", None)
    dimensions = identity.uid("dimensions")
    for item in (*dataset.get("DimensionOrganizationSequence", ()), *dataset.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = dimensions
