"""Which release each model is of, who signed it, and that it is no older one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from medattn_edge.artifact import Artifact
from medattn_edge.errors import IntegrityError, UsageError
from medattn_edge.release import (
    TrustedKey,
    VerifiedRelease,
    is_release_address,
    opened_artifact,
    split_address,
    trusted_keys,
    verify,
)
from medattn_edge.scanner.config.node_config import NodeConfig
from medattn_edge.scanner.config.sections import Model, Releases
from medattn_edge.scanner.config.toml import Reader
from medattn_edge.scanner.store.served import check_not_older
from medattn_edge.spec import ModelSpec


def check_releases(releases: Releases | None, reader: Reader) -> None:
    """Raises UsageError, naming the file and the place, for trusted keys that cannot be read."""
    if releases is None:
        return
    try:
        trusted_keys(releases.trusted_keys)
    except UsageError as error:
        raise reader.wrong("[releases] trusted_keys:", error.found, error.hint, error.expected) from error


class Identified(NamedTuple):
    """What a model's artifact is.

    Attributes:
        file: the name of the file that segments.
        content_sha256: what stands for its contents.
        release_sha256: the hash of its release.json; "" for an artifact by itself.
        spec: what its network expects.
    """

    file: str
    content_sha256: str
    release_sha256: str
    spec: ModelSpec


def identified(model: Model, releases: Releases | None, root: Path) -> Identified:
    """What the artifact of a model is, by itself or in a release.

    Raises:
        IntegrityError: for a release that was changed, is signed by nobody whose signature counts, or is older than one
            that was served from `root`; for an artifact by itself where signatures are required.
        InputError, UsageError: for a file, a release or an artifact of it that is not there.
    """
    release = release_of(model, releases)
    if release is None:
        if releases is not None and releases.require_signed:
            raise IntegrityError(
                f"{model.artifact.name} is an artifact by itself, which has no signature",
                expected="a signed release: [releases] require_signed is true",
                hint=f"medattn-edge release write {model.artifact.name} -o DIR, then medattn-edge release sign",
            )
        artifact = Artifact.read(model.artifact)
        return Identified(model.artifact.name, artifact.content_sha256, "", artifact.spec)
    check_not_older(root, release)
    name = split_address(model.artifact)[1] or release.manifest.default
    if name not in release.manifest.artifacts:
        names = ", ".join(sorted(release.manifest.artifacts))
        raise UsageError(
            f"the release {release.title} holds no artifact {name!r}", expected=f"one of {names}", hint=names
        )
    with opened_artifact(model.artifact, manifest_sha256=release.manifest_sha256) as opened:
        spec = Artifact.read(opened.file).spec
    content = str(release.manifest.artifacts[name]["content_sha256"])
    return Identified(name, content, release.manifest_sha256, spec)


def release_of(model: Model, releases: Releases | None) -> VerifiedRelease | None:
    """The release of a model, every byte checked and its signature as the configuration asks; None for an artifact.

    Raises IntegrityError and InputError as `verify` does.
    """
    place, _ = split_address(model.artifact)
    if not model.release_sha256 and not is_release_address(model.artifact):
        return None
    keys: tuple[TrustedKey, ...] = () if releases is None else trusted_keys(releases.trusted_keys)
    if releases is not None and not releases.require_signed and not verify(place).signed:
        return verify(place)
    return verify(place, keys)


def releases_of(config: NodeConfig) -> dict[str, VerifiedRelease]:
    """The release of every model that has one, by the model's name.

    Raises IntegrityError when one is not the one that was read with the configuration, and as `release_of` does.
    """
    found = {}
    for model in config.models:
        release = release_of(model, config.releases)
        if release is None:
            continue
        if release.manifest_sha256 != model.release_sha256:
            raise IntegrityError(
                f"the release {release.title} of the model {model.name} was changed",
                expected=f"the manifest {model.release_sha256[:16]}..., as when the configuration was read",
                hint="put it back, or have the node read its configuration again: kill -HUP PID",
            )
        found[model.name] = release
    return found


def check_one_version(releases: dict[str, VerifiedRelease], reader: Reader) -> None:
    """Raises UsageError for two versions of one release: the smaller would be refused at the next start."""
    seen: dict[str, VerifiedRelease] = {}
    for model, release in releases.items():
        before = seen.setdefault(release.manifest.name, release)
        if before.manifest_sha256 != release.manifest_sha256:
            raise reader.wrong(
                f"[[model]] {model}: artifact",
                f"is the release {release.title}, and another model has {before.title} or one of its number",
                f'artifact = "{before.path.name}"',
                "one version of a release",
            )
