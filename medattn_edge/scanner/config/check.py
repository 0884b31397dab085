"""What no type of a key can tell of a configuration: names, numbers, folders, artifacts."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import IntegrityError, MedattnError, UsageError
from medattn_edge.scanner.config.channels import checked_channels
from medattn_edge.scanner.config.network import check_network
from medattn_edge.scanner.config.node_config import NodeConfig
from medattn_edge.scanner.config.released import check_one_version, check_releases, identified, releases_of
from medattn_edge.scanner.config.sections import Limits, Model, StorageCommitment
from medattn_edge.scanner.config.toml import Reader
from medattn_edge.spec import modalities_of

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
_MODALITIES: Final = ("", "CT", "MR", "PT")  # of which the readers make volumes
_LONGEST_S: Final = 1e8  # three years; the operating system's own clocks and timers take no much larger numbers
_LONGEST_DAYS: Final = 1e5
_MOST_GB: Final = 1e9
_PROGRAMS: Final = (".torchscript", ".ts", ".pt2")


def check(config: NodeConfig, reader: Reader) -> NodeConfig:
    """The configuration, with the hash of every artifact: what is swapped afterwards is not opened.

    Raises:
        UsageError: naming the file and the place, for what could not work.
        IntegrityError: an artifact is not what its manifest says.
    """
    if not config.name.isprintable() or not 0 < len(config.name) <= 64:
        raise reader.wrong("[node] name", f"is {config.name!r}", 'name = "ct-room-2"', "1 to 64 characters")
    if config.receive is None and config.watch is None:
        raise reader.wrong("", "has neither [receive] nor [watch]", "[receive]", "a way in")
    _check_names(config, reader)
    _check_numbers(config, reader)
    check_network(config, reader)
    _check_folders(config, reader)
    check_releases(config.releases, reader)
    config = replace(config, models=tuple(_checked_model(model, config, reader) for model in config.models))
    if {"cuda", "cuda:0"} <= {model.computes_on for model in config.models}:
        raise reader.wrong("[[model]] device", "is cuda and cuda:0, one device", 'device = "cuda:0"', "one name for it")
    if len(config.models) > 1:
        check_one_version(releases_of(config), reader)
    return config


def _check_names(config: NodeConfig, reader: Reader) -> None:
    for kind, names in (
        ("model", [one.name for one in config.models]),
        ("destination", [one.name for one in config.destinations]),
    ):
        for name, count in Counter(names).items():
            if not _NAME.fullmatch(name) or count > 1:
                what = f"is {name!r}" if count == 1 else f"is {name!r} {count} times"
                raise reader.wrong(
                    f"[[{kind}]] name", what, f'name = "{kind}-1"', "its own name of up to 32 of a-z, 0-9, - and _"
                )
    known = sorted(one.name for one in config.destinations)
    for model in config.models:
        for name in model.destinations:
            if name not in known:
                raise reader.wrong(
                    f"[[model]] {model.name}: destinations", f"names {name!r}", f'"{known[0]}"', " or ".join(known)
                )


def _check_numbers(config: NodeConfig, reader: Reader) -> None:
    """Every number of every section: at least as much, and at most as much."""
    sections: list[tuple[str, Any]] = [("[limits]", config.limits), ("[receive]", config.receive)]
    sections += [("[watch]", config.watch)]
    sections += [(f"[[model]] {one.name}:", one) for one in config.models]
    sections += [(f"[[model]] {one.name}: channels:", part) for one in config.models for part in one.channels]
    sections += [(f"[[destination]] {one.name}:", one) for one in config.destinations]
    sections += [("[storage_commitment]", config.storage_commitment)]
    sections += [(f"[[commitment_peer]] {one.ae_title}:", one) for one in config.commitment_peers]
    for where, section in sections:
        for one in fields(section) if section is not None else ():
            value = getattr(section, one.name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            least, most = _bounds(section, one.name)
            if not least <= value <= most:
                bound = least if value < least else most
                allowed = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
                raise reader.wrong(f"{where} {one.name}", f"is {value:g}", f"{one.name} = {bound:g}", allowed)
    limits = config.limits
    if limits.quota_gb is not None and limits.quota_gb <= limits.min_free_gb:
        raise reader.wrong(
            "[limits] quota_gb",
            f"is {limits.quota_gb:g}",
            f"quota_gb = {limits.min_free_gb + 10:g}",
            f"more than min_free_gb = {limits.min_free_gb:g}",
        )


def _bounds(section: object, name: str) -> tuple[float, float]:
    """The smallest and the largest number that can work."""
    if isinstance(section, Limits) and name == "max_used_fraction":
        return 0.01, 1.0
    if isinstance(section, Model) and name == "overlap":
        return 0.0, 0.99
    if isinstance(section, StorageCommitment) and name == "max_instances":
        return 1, 100_000
    if name in ("poll_s", "timeout_s", "job_timeout_s", "start_timeout_s"):
        return 0.05, _LONGEST_S
    if name in ("max_associations", "max_per_address", "max_object_mb", "max_waiting"):
        return 1, 1_000_000
    for suffix, most in (("_s", _LONGEST_S), ("_days", _LONGEST_DAYS), ("_gb", _MOST_GB)):
        if name.endswith(suffix):
            return 0, most
    return 0, math.inf


def _check_folders(config: NodeConfig, reader: Reader) -> None:
    """The node would take its own objects and results for new ones, or clean up somebody else's."""
    if config.root.exists() and not config.root.is_dir():
        raise reader.wrong("[node] root", f"{config.root} is not a directory", 'root = "node"', "a folder")
    if config.log_file is not None and config.log_file.is_dir():
        raise reader.wrong("[node] log_file", f"{config.log_file} is a folder", 'log_file = "node.log"', "a file")
    folders = list(_folders(config))
    for where, path in folders:
        if where not in ("[node] root", "[watch] folder"):
            continue
        for other, inside in folders:
            if other != where and inside.is_relative_to(path):
                hint = f"a folder beside '{path}'"
                raise reader.wrong(other, f"{inside} lies in {where} {path}", hint, "folders that lie apart")


def _folders(config: NodeConfig) -> Iterator[tuple[str, Path]]:
    yield "[node] root", _real(config.root)
    if config.watch is not None:
        yield "[watch] folder", _real(config.watch.folder)
    for one in config.destinations:
        if one.folder is not None:
            yield f"[[destination]] {one.name}: folder", _real(one.folder)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _checked_model(model: Model, config: NodeConfig, reader: Reader) -> Model:
    where = f"[[model]] {model.name}:"
    if not _DEVICE.fullmatch(model.device):
        raise reader.wrong(f"{where} device", f"is {model.device!r}", 'device = "auto"', "auto, cpu, cuda or cuda:N")
    for place, modality in (("modality", model.modality), *(("channels", one.modality) for one in model.channels)):
        if modality not in _MODALITIES:
            near = {"PET": "PT", "MRI": "MR", "MRT": "MR"}.get(modality.upper(), modality.upper())
            what = f"is {modality!r}" if place == "modality" else f"has the modality {modality!r}"
            hint = f'modality = "{near if near in _MODALITIES else "CT"}"'
            raise reader.wrong(f"{where} {place}", what, hint, "CT, MR, PT, or empty for any of them")
    if model.sr and model.kind != "binary":
        raise reader.wrong(
            f"{where} sr",
            f"is true, with kind = {model.kind!r}",
            'kind = "binary", or sr = false',
            "a binary segmentation",
        )
    _check_no_program(model.artifact, where, reader)
    try:
        artifact = identified(model, config.releases, config.root)
    except MedattnError as error:
        kind = IntegrityError if isinstance(error, IntegrityError) else UsageError
        raise kind(
            f"{reader.path}: {where} artifact: {error.found}", expected=error.expected, hint=error.hint
        ) from error
    _check_no_program(Path(artifact.file), where, reader)  # the default of a release
    release = artifact.release_sha256
    if model.release_sha256 and model.release_sha256.lower() != release:
        found_instead = f"{release[:16]}..." if release else "no release"
        raise IntegrityError(
            f"{reader.path}: {where} release_sha256 is {model.release_sha256[:16]}..., and there is {found_instead}",
            expected="the release that the configuration names",
            hint=f'put the right release there, or, when this one is meant: release_sha256 = "{release}"',
        )
    found = artifact.content_sha256
    if model.sha256 and model.sha256.lower() != found:
        raise IntegrityError(
            f"{reader.path}: {where} sha256 is {model.sha256[:16]}..., and {model.artifact.name} has {found[:16]}...",
            expected="the artifact that the configuration names",
            hint=f'put the right file there, or, when this one is meant: sha256 = "{found}"',
        )
    own = modalities_of(artifact.spec.modality)
    if model.modality and own and model.modality not in own and not model.any_modality:
        raise reader.wrong(
            f"{where} modality",
            f"is {model.modality}, and {artifact.file} was trained on {'+'.join(own)}",
            f'modality = "{own[0]}", or any_modality = true',
            "series that the artifact is for",
        )
    model = replace(model, sha256=found, release_sha256=release, file_name=artifact.file)
    return checked_channels(model, artifact.spec, reader)


def _check_no_program(file: Path, where: str, reader: Reader) -> None:
    if file.suffix.lower() in _PROGRAMS:
        raise reader.wrong(
            f"{where} artifact",
            f"is {file.name}, a program that could do anything on this host",
            f'artifact = "{file.with_suffix(".onnx").name}"',
            "a file of weights and operators: .onnx, .xml or an engine",
        )
