"""Release: artifacts with everything that says what they are, in one folder or .zip, signed and checked as a whole."""

from medattn_edge.release.keys import TrustedKey, generate_key, load_private_key, trusted_keys
from medattn_edge.release.manifest import ReleasedFile, ReleaseManifest
from medattn_edge.release.verify import (
    OpenedArtifact,
    VerifiedRelease,
    is_release_address,
    opened_artifact,
    split_address,
    verify,
)
from medattn_edge.release.write import sign_release, write_release

__all__ = [
    "OpenedArtifact",
    "ReleaseManifest",
    "ReleasedFile",
    "TrustedKey",
    "VerifiedRelease",
    "generate_key",
    "is_release_address",
    "load_private_key",
    "opened_artifact",
    "sign_release",
    "split_address",
    "trusted_keys",
    "verify",
    "write_release",
]
