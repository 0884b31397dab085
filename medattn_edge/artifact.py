"""Artifact: a model file and the sidecar manifest that says what it is.

`NAME.onnx` travels with `NAME.onnx.json`. The file is opened only when its SHA-256 is the manifest's, and so is that of
every companion, such as the weights `NAME.bin` of `NAME.xml`.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medattn_edge.atomic import replacing
from medattn_edge.errors import IntegrityError, MedattnError, quoted
from medattn_edge.file_gate import FileGate
from medattn_edge.host.distributions import installed
from medattn_edge.installation import upgrade_line
from medattn_edge.nearby import missing
from medattn_edge.onnx_external import external_files
from medattn_edge.spec import ModelSpec

SCHEMA = 1
_MOST_VOXELS = 1 << 31  # of a patch: 1290 cubed
_MOST_CHANNELS = 1 << 16
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("precision", "sha256", "parent_sha256", "exporter"), str),
    **dict.fromkeys(
        ("inputs", "outputs", "operators", "tools", "recipe", "target", "companions", "reading", "tiling"), Mapping
    ),
    "batch": int | None,
    "parameters": int,
    "gflop": int | float,
    "gate": FileGate | None,
}
_PIECE_BYTES = 1 << 20
_RENAMED = {"door": "quantizer", "doors": "quantizers"}  # old names in a recipe, which files in use still have
_TOOLS = ("medattn-edge", "numpy", "torch", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf")


@dataclass(frozen=True)
class Manifest:
    """What an artifact is.

    Attributes:
        spec: what its network expects.
        precision: fp32, fp16 or int8.
        sha256: of the model file.
        parent_sha256: of the file that it was made from.
        exporter: the name of the record that wrote it.
        batch: the fixed N of its input, or None for any.
        inputs: name -> shape, N as -1 where it is free.
        outputs: name -> shape, N as -1 where it is free.
        operators: type -> count.
        parameters: how many numbers.
        gflop: 2 x multiply-adds of convolutions and matrix products of one patch, in 1e9.
        attention_maps: the names of the maps of its `attention` output, if it has one.
        agreement: the figures of the check that allowed it to be written.
        tools: the versions that made it.
        lineage: the SHA-256 of every ancestor, the checkpoint first and the parent last.
        recipe: how an fp16 or int8 graph was made: what stayed in FP32, on which scans it was calibrated and judged.
        target: of a compiled artifact: the compiler, what it was compiled for, and what may run it.
        companions: suffix -> SHA-256 of files that belong to the model file: `.bin` of NAME.xml is NAME.bin.
        rewrites: what was done to the network before it was exported, in order: name, title, how many sites, and what
            it saved (`gflop_saved`, `mbytes_saved`).
        reading: how a foreign checkpoint was read: `assumptions`, settings that nobody told, with their values;
            `spec_assumptions`, the same of the spec, by option; `remarks`, what was taken and what left out;
            `expectation` and `scan_expectation`, what the owner's own logits and own result of a scan proved.
        gate: what was asked of an fp16 or int8 graph, or of the one that it was compiled from, against the FP32
            network; None for FP32, and in manifests from before there was one.
        tiling: of an artifact whose windows are not the checkpoint's, which then has the spec's `overlap`:
            `reference_overlap`, that of the checkpoint's windows, which what is computed is held to.
    """

    spec: ModelSpec
    precision: str
    sha256: str
    parent_sha256: str
    exporter: str
    batch: int | None
    inputs: Mapping[str, list[int]]
    outputs: Mapping[str, list[int]]
    operators: Mapping[str, int]
    parameters: int
    gflop: float
    attention_maps: tuple[str, ...] = ()
    agreement: tuple[Mapping[str, Any], ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    lineage: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    companions: Mapping[str, str] = field(default_factory=dict)
    rewrites: tuple[Mapping[str, Any], ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    gate: FileGate | None = None
    tiling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [name for name, kind in _KINDS.items() if not isinstance(getattr(self, name), kind)]
        for name in ("attention_maps", "lineage"):
            wrong += [] if all(isinstance(text, str) for text in getattr(self, name)) else [name]
        for name in ("agreement", "rewrites"):
            wrong += [] if all(isinstance(one, Mapping) for one in getattr(self, name)) else [name]
        wrong += (
            []
            if all(_is_suffix(key) and isinstance(self.companions[key], str) for key in self.companions)
            else ["companions"]
        )
        if wrong:
            raise TypeError(f"{wrong[0]} is {getattr(self, wrong[0])!r}")
        if self.gate is not None and (strange := {*self.gate.labels, *self.gate.label_values} - {*self.spec.labels}):
            raise ValueError(f"the gate names {', '.join(sorted(strange))}, which the network does not have")
        replace(self.spec, overlap=self.tiling.get("reference_overlap", self.spec.overlap))  # refuses what cannot be
        if not self.lineage:  # what an export writes, and what older manifests say
            object.__setattr__(self, "lineage", (self.parent_sha256,))

    @property
    def reference_spec(self) -> ModelSpec:
        """The spec that the checkpoint is run under to be its reference: with the checkpoint's own windows."""
        return replace(self.spec, overlap=self.tiling.get("reference_overlap", self.spec.overlap))

    def child(self, **changes: Any) -> Manifest:
        """The manifest of what is made from this artifact: its lineage, and `changes`; nothing of it is checked yet."""
        origin = {"parent_sha256": self.sha256, "lineage": (*self.lineage, self.sha256), "tools": tool_versions()}
        return replace(self, **{"agreement": (), "companions": {}, **origin, **changes})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with the schema's version; `from_json` is its inverse."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if not self.tiling:
            del values["tiling"]  # older versions read it
        plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        lists = {name: list(getattr(self, name)) for name in ("attention_maps", "lineage")}
        lists |= {name: [dict(one) for one in getattr(self, name)] for name in ("agreement", "rewrites")}
        gate = None if self.gate is None else self.gate.to_json()
        return {"schema": SCHEMA, **plain, "spec": self.spec.to_json(), "gate": gate, **lists}

    def write(self, sidecar: Path) -> None:
        """Write it as the JSON file that lies beside the model."""
        sidecar.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """From `to_json`.

        Raises:
            IntegrityError: for a newer schema, and for fields that are missing or wrong.
        """
        if not isinstance(values, Mapping) or type(values.get("schema")) is not int or values["schema"] < 1:
            raise IntegrityError(
                "a manifest without a schema number",
                expected=f"schema {SCHEMA}",
                hint="export the checkpoint again: medattn-edge export CHECKPOINT -o NAME.onnx",
            )
        if values["schema"] > SCHEMA:
            raise IntegrityError(
                f"a manifest of schema {values['schema']}",
                expected=f"schema {SCHEMA} or older",
                hint=upgrade_line(),
            )
        try:
            rest = {key: value for key, value in values.items() if key != "schema"}
            manifest = cls(
                **{
                    **rest,
                    "spec": ModelSpec.from_json(values["spec"]),
                    "attention_maps": tuple(rest.get("attention_maps", ())),
                    "lineage": tuple(rest.get("lineage", ())),
                    "agreement": tuple(rest.get("agreement", ())),
                    "rewrites": tuple(rest.get("rewrites", ())),
                    "recipe": _renamed(rest["recipe"]) if "recipe" in rest else {},
                    "gate": None if rest.get("gate") is None else FileGate.from_json(rest["gate"]),
                }
            )
            _check_sizes(manifest)
            return manifest
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MedattnError) as error:
            raise IntegrityError(
                f"a manifest that cannot be read: {error}",
                expected=f"the fields of schema {SCHEMA}",
                hint="export the checkpoint again: medattn-edge export CHECKPOINT -o NAME.onnx",
            ) from error


@dataclass(frozen=True)
class Artifact:
    """A model file whose manifest has been read and whose hash has been checked.

    Attributes:
        path: of the model file.
        manifest: as it was read beside it.
    """

    path: Path
    manifest: Manifest

    @property
    def spec(self) -> ModelSpec:
        """What its network expects."""
        return self.manifest.spec

    @property
    def origin(self) -> dict[str, Any]:
        """What a session repeats of the manifest, for reports: precision, parent_sha256, lineage."""
        manifest = self.manifest
        lineage = list(manifest.lineage)
        return {"precision": manifest.precision, "parent_sha256": manifest.parent_sha256, "lineage": lineage}

    @property
    def content_sha256(self) -> str:
        """What stands for everything that is opened: the SHA-256 of the model file, where it has no companions."""
        companions = self.manifest.companions
        if not companions:
            return self.manifest.sha256
        text = "".join([self.manifest.sha256, *(f"{suffix} {companions[suffix]}" for suffix in sorted(companions))])
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Artifact:
        """Read the manifest beside `path` and check the file's hash.

        Raises:
            InputError: when the file is missing.
            IntegrityError: when the manifest is missing, cannot be read, is of a newer schema, or has another hash; for
                weights in files that are no companions.
        """
        path = Path(path)
        if not path.is_file():
            raise missing(path, "an artifact", otherwise=_how_it_is_made(path))
        sidecar = manifest_path(path)
        if not sidecar.is_file():
            raise IntegrityError(
                f"{path.name} has no manifest",
                expected=f"{sidecar.name} beside it",
                hint=f"copy {quoted(sidecar.name)} too, or export the checkpoint again",
            )
        try:
            values = json.loads(
                sidecar.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once, parse_constant=_no_number
            )
        except (ValueError, RecursionError, OSError) as error:
            raise IntegrityError(
                f"{sidecar} cannot be read: {error}",
                expected="a JSON manifest",
                hint="copy the manifest again, or export the checkpoint again",
            ) from error
        manifest = Manifest.from_json(values)
        _check_hash(path, manifest.sha256)
        for suffix, digest in manifest.companions.items():
            _check_hash(path.with_suffix(suffix), digest)
        _check_external(path, manifest)
        return cls(path, manifest)


def _check_external(path: Path, manifest: Manifest) -> None:
    """A runtime follows the names in an ONNX file wherever they lead: they may lead to companions, which are hashed."""
    if path.suffix.lower() != ".onnx":
        return
    hashed = {path.with_suffix(suffix).name for suffix in manifest.companions}
    strange = sorted(external_files(path) - hashed)
    if strange:
        raise IntegrityError(
            f"{path.name} has weights in another file, {strange[0]!r}, whose hash nobody knows",
            expected="weights inside it, or in a companion that its manifest names",
            hint="make the artifact again: medattn-edge export CHECKPOINT -o NAME.onnx",
        )


def _check_sizes(manifest: Manifest) -> None:
    """Raises ValueError for numbers that no network has: memory would be full of their patches."""
    spec = manifest.spec
    if math.prod(spec.patch) > _MOST_VOXELS or not 0 < spec.in_channels <= _MOST_CHANNELS:
        raise ValueError(f"patches of {spec.in_channels} x {spec.patch} voxels")
    if not math.isfinite(manifest.gflop) or manifest.gflop < 0 or manifest.parameters < 0:
        raise ValueError(f"{manifest.parameters} parameters and {manifest.gflop} GFLOP")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _how_it_is_made(path: Path) -> str:
    """The command that writes such a file; empty for a suffix that none has."""
    suffix = path.suffix.lower()
    if suffix in (".onnx", ".torchscript"):
        return f"medattn-edge export CHECKPOINT -o {quoted(path.name)}"
    compiled = (".xml", ".blob", ".ort", ".engine", ".rtx", ".ts", ".pt2")
    return f"medattn-edge compile NET.onnx -o {quoted(path.name)}" if suffix in compiled else ""


def _check_hash(path: Path, expected: str) -> None:
    actual = sha256(path) if path.is_file() else "no such file"
    if actual != expected:
        raise IntegrityError(
            f"{path.name} has the SHA-256 {actual[:16]}..." if path.is_file() else f"{path.name} does not exist",
            expected=f"{expected[:16]}... as its manifest says",
            hint="copy all its files again, or make the artifact again",
        )


def _renamed(recipe: Any) -> Any:
    """A recipe, or a row of its list of quantizers, with the names that its fields have today."""
    if not isinstance(recipe, Mapping):
        return recipe
    fields_today = {_RENAMED.get(key, key): value for key, value in recipe.items()}
    rows = fields_today.get("quantizers")
    return {**fields_today, "quantizers": [_renamed(row) for row in rows]} if isinstance(rows, list) else fields_today


def _is_suffix(text: str) -> bool:
    """A suffix and nothing else: a manifest must not lead to other folders."""
    return len(text) > 1 and text[0] == "." and text[1:].isalnum()


@contextmanager
def writing(path: Path) -> Iterator[tuple[Path, Path]]:
    """Temporary (model, manifest) files that become `path` and its sidecar together, or not at all.

    Between the two renames a crash leaves a new model with an old manifest, which `Artifact.read` refuses.
    """
    with replacing(manifest_path(path)) as sidecar, replacing(Path(path)) as model:
        yield model, sidecar


def manifest_path(path: Path) -> Path:
    """NAME.onnx -> NAME.onnx.json."""
    return Path(path).with_name(Path(path).name + ".json")


def is_artifact(path: Path) -> bool:
    """Whether a file has a manifest of ours beside it, which `Artifact.read` holds it to; nothing is checked here."""
    try:
        values = json.loads(manifest_path(path).read_text(encoding="utf-8")) if Path(path).is_file() else None
    except (ValueError, RecursionError, OSError):
        return False
    return isinstance(values, dict) and {"schema", "spec", "sha256"} <= values.keys()


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        return digest.hexdigest()


def tool_versions() -> dict[str, str]:
    """Versions of what can change an artifact, of those installed."""
    return {"python": platform.python_version(), **installed(_TOOLS)}


def move_into(files: tuple[Path, Path], artifact: Artifact, path: Path) -> Artifact:
    """Move an artifact's files from where it was made to its place, companions included: all of them, or none.

    The companions appear at once, the model and the manifest when `writing` ends: a crash between them leaves hashes
    that do not fit.

    Args:
        files: what `writing(path)` gave.
        artifact: whose files are moved; its manifest is written.
        path: its place.

    Returns:
        The artifact at its place.

    Raises:
        OutputError: when a file cannot be written.
    """
    model, sidecar = files
    with ExitStack() as stack:
        for suffix in artifact.manifest.companions:
            shutil.move(artifact.path.with_suffix(suffix), stack.enter_context(replacing(path.with_suffix(suffix))))
        shutil.move(artifact.path, model)
        artifact.manifest.write(sidecar)
    return Artifact(path, artifact.manifest)
