"""The bill of materials of a release: CycloneDX 1.6, every artifact a machine-learning model.

The same release gives the same bytes: its serial number is made from its contents, and its time is SOURCE_DATE_EPOCH or
none at all.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import MissingDependency
from medattn_edge.release.manifest import ReleaseManifest

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_SPACE: Final = uuid.UUID("6d8e6a1f-2f0b-5c5e-9a35-1f6f6f0d2c11")  # of serial numbers of releases


def bill_of_materials(release: ReleaseManifest) -> bytes:
    """JSON of CycloneDX 1.6.

    Components are the artifacts (with SHA-256, precision, lineage and calibration as properties), the other files, and
    the packages that made them with their purl; an artifact depends on what it was made from and made with.

    Args:
        release: all that is known before this bill is one of its files.

    Raises:
        MissingDependency: without cyclonedx-python-lib.
    """
    try:
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.model.dependency import Dependency
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise MissingDependency.of_extra("cyclonedx-python-lib", "release") from error
    whole = Component(
        name=release.name,
        version=str(release.version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="release",
        description="A release of segmentation networks; see release.json.",
    )
    files = [_file(name, one.sha256) for name, one in release.files.items() if name not in release.artifacts]
    models = {name: _model(name, values, release) for name, values in release.artifacts.items()}
    tools = {
        (package, version): _package(package, version)
        for values in (release.tools, *(one["tools"] for one in release.artifacts.values()))
        for package, version in values.items()
    }
    ancestors = {
        one["sha256"]: _ancestor(one)
        for values in release.artifacts.values()
        for one in values["lineage"]
        if one["file"] is None
    }
    by_digest = {values["sha256"]: models[name] for name, values in release.artifacts.items()}
    edges = [Dependency(whole.bom_ref, [Dependency(one.bom_ref) for one in models.values()])]
    for name, values in release.artifacts.items():
        digest = values["lineage"][-2]["sha256"]
        made_of = by_digest.get(digest) or ancestors[digest]
        made_with = [tools[item] for item in values["tools"].items()]
        edges.append(Dependency(models[name].bom_ref, [Dependency(one.bom_ref) for one in (made_of, *made_with)]))
    bom = Bom(
        components=[*models.values(), *files, *ancestors.values(), *tools.values()],
        serial_number=uuid.uuid5(_SPACE, release.to_bytes().decode()),
        dependencies=edges,
    )
    bom.metadata.component = whole
    # The library sets the time of day.
    bom.metadata.timestamp = None if release.created is None else datetime.fromisoformat(release.created)  # type: ignore[assignment]
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _model(name: str, values: Mapping[str, Any], release: ReleaseManifest) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    facts = {
        "network": values["network"],
        "precision": values["precision"],
        "exporter": values["exporter"],
        "labels": ", ".join(values["labels"]),
        "lineage": " -> ".join(one["sha256"] for one in values["lineage"]),
        "companions": ", ".join(sorted(values["companions"])),
        "rewrites": ", ".join(values["rewrites"]),
        "calibration windows": values["calibration"].get("windows_sha256", ""),
    }
    return Component(
        name=name,
        version=str(release.version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"artifact/{name}",
        hashes=_hashes(values["sha256"]),
        properties=[Property(name=f"medattn-edge:{key}", value=value) for key, value in facts.items() if value],
    )


def _ancestor(values: Mapping[str, Any]) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name="checkpoint" if values["made"] == "checkpoint" else "ancestor",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"ancestor/{values['sha256']}",
        hashes=_hashes(values["sha256"]),
        description=f"{values['made']}; not a file of this release",
    )


def _file(name: str, digest: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(name=name, type=ComponentType.FILE, bom_ref=f"file/{name}", hashes=_hashes(digest))


def _package(name: str, version: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    reference = f"package/{name}@{version}"
    if name == "python":
        return Component(name=name, version=version, type=ComponentType.PLATFORM, bom_ref=reference)
    # A local version (2.13.0+cpu) is of another index; purl knows the public one.
    purl = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
    return Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=reference, purl=purl)


def _hashes(digest: str) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
