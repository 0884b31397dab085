"""What a release says of an artifact: the part of its own manifest that an audit asks for, without names of scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact, Manifest, manifest_path


def files_of(path: Path, manifest: Manifest) -> tuple[Path, ...]:
    """The model file, its manifest and its companions."""
    return (path, manifest_path(path), *(path.with_suffix(suffix) for suffix in sorted(manifest.companions)))


def describe(artifacts: Sequence[Artifact]) -> dict[str, dict[str, Any]]:
    """File name -> what a release says of each artifact.

    A file of the lineage that is in the release too is named; of the others only the hash is known.
    """
    named = {one.manifest.sha256: one for one in artifacts}
    return {one.path.name: _describe(one, named) for one in artifacts}


def _describe(artifact: Artifact, named: Mapping[str, Artifact]) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "network": manifest.spec.network,
        "labels": list(manifest.spec.labels),
        "patch": list(manifest.spec.patch),
        "precision": manifest.precision,
        "exporter": manifest.exporter,
        "sha256": manifest.sha256,
        "content_sha256": artifact.content_sha256,
        "companions": {
            artifact.path.with_suffix(suffix).name: digest for suffix, digest in manifest.companions.items()
        },
        "lineage": [_ancestor(place, digest, named) for place, digest in enumerate(manifest.lineage)]
        + [{"sha256": manifest.sha256, "file": artifact.path.name, "made": _made(manifest)}],
        "calibration": _calibration(manifest.recipe),
        "thresholds": _thresholds(manifest.agreement),
        "rewrites": [str(one.get("name", "")) for one in manifest.rewrites],
        "target": dict(manifest.target),
        "tools": dict(manifest.tools),
    }


def _ancestor(place: int, digest: str, named: Mapping[str, Artifact]) -> dict[str, Any]:
    known = named.get(digest)
    if known is not None:
        return {"sha256": digest, "file": known.path.name, "made": _made(known.manifest)}
    return {"sha256": digest, "file": None, "made": "checkpoint" if place == 0 else "not in this release"}


def _made(manifest: Manifest) -> str:
    return f"{manifest.precision}, {manifest.exporter}"


def _calibration(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes and numbers; the names of scans stay in the artifact's own manifest, where whoever made it put them."""
    if "calibration_sha256" not in recipe:
        return {}
    counts = {key: sum(recipe[key].values()) for key in ("calibrated_on", "judged_on") if _counts(recipe.get(key))}
    plain = {key: recipe[key] for key in ("quantizer", "method", "profile") if isinstance(recipe.get(key), str)}
    return {"windows_sha256": recipe["calibration_sha256"], "windows": counts, **plain}


def _counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(one) is int for one in value.values())


def _thresholds(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each set of limits that it was held to when it was written, and on how many inputs."""
    limits = [dict(case["thresholds"]) for case in cases if isinstance(case.get("thresholds"), Mapping)]
    return [
        {"limits": one, "inputs": limits.count(one)} for place, one in enumerate(limits) if one not in limits[:place]
    ]
