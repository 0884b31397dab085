"""The facts of a spec that a user gives, by options or in a file, and those that nobody gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medattn_edge.errors import InputError, UsageError
from medattn_edge.spec import (
    SPEC_OPTIONS,
    Cleanup,
    Intensity,
    ModelSpec,
    assumed_values,
    is_background,
    modalities_of,
    read_spec,
    with_plane,
)

from . import console
from .options import parse_sizes, parse_spacing

if TYPE_CHECKING:
    from medattn_edge.foreign import ForeignNetwork
    from medattn_edge.models.checkpoint import Checkpoint

_Loaded = TypeVar("_Loaded", "Checkpoint", "ForeignNetwork")
_FIELDS = {option: name for name, option in SPEC_OPTIONS.items()}
# What says nothing of how the network was trained may be given for a checkpoint that carries its spec, too.
_OF_ANY_CHECKPOINT = ("--patch", "--region-order", "--after", "--mirror", "--modality", "--body-part", "--channels")
_OF_A_SPEC = ("network", "in_channels", "outputs")


@dataclass(frozen=True)
class SpecOptions:
    """What was typed.

    Attributes:
        texts: option -> text; an empty text was not typed.
        after: the values of --after.
        first_label_is_background: whether that was said.
        file: the path of --spec.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    after: Sequence[str] = ()
    first_label_is_background: bool = False
    file: Path | None = None

    @property
    def typed(self) -> dict[str, str]:
        """Option -> text, of those that were."""
        texts = {option: text for option, text in self.texts.items() if text}
        return texts | ({"--after": " ".join(self.after)} if self.after else {})

    def without(self, option: str) -> SpecOptions:
        """The same without one option."""
        return replace(self, texts={name: text for name, text in self.texts.items() if name != option})


def settings_of_file(options: SpecOptions) -> dict[str, Any]:
    """The network's own settings that --spec gives, for `checkpoint.load`; raises what `read_spec` raises."""
    return {} if options.file is None else dict(read_spec(options.file)[0].config)


def with_spec_options(loaded: _Loaded, options: SpecOptions) -> _Loaded:
    """The network under the spec that the user gave; the rest stays an assumption.

    Raises:
        UsageError: an option cannot be read, contradicts the network, or is not for a checkpoint that carries its spec;
            or the labels do not say where the background is.
        InputError: the file of --spec cannot be read, or is of another network.
    """
    typed = options.typed
    foreign_only = [option for option in typed if option not in _OF_ANY_CHECKPOINT]
    foreign_only += ["--spec"] if options.file is not None else []
    if foreign_only and not loaded.foreign:
        raise UsageError(
            f"{', '.join(foreign_only)} for a checkpoint that carries its own spec",
            expected="these options only for foreign checkpoints",
            hint="medattn-edge inspect CHECKPOINT",
        )
    spec, given = loaded.spec, ()
    if options.file is not None:
        spec, given = _spec_of_file(loaded, options.file)
    changes = changes_of(options, spec)
    if options.file is not None:
        _note_overridden(options.file, spec, changes)
    spec = replace(spec, **changes)
    told = {_FIELDS[option] for option in typed if option in _FIELDS} | set(given)
    if loaded.foreign and "labels" in told and not options.first_label_is_background:
        _ask_for_background(spec)
    return loaded.with_spec(spec, told)


def note_spec_assumptions(loaded: Checkpoint | ForeignNetwork) -> None:
    """Say every fact of the spec that nobody gave, one to a line."""
    values = assumed_values(loaded.spec, loaded.assumed)
    if not loaded.spec.modality and "--modality" not in values:
        console.note("the checkpoint does not say its modality: scans of any will be taken; --modality CT says it")
    if values:
        console.note(f"the checkpoint ({loaded.layout}) says nothing of its input; assumed:")
        for option, value in values.items():
            console.note(f"  {option:<14} {value}")


def _spec_of_file(loaded: Checkpoint | ForeignNetwork, path: Path) -> tuple[ModelSpec, tuple[str, ...]]:
    """The file's spec, and the fields that it gives."""
    spec, given = read_spec(path)
    for name in _OF_A_SPEC:
        theirs, ours = getattr(spec, name), getattr(loaded.spec, name)
        if theirs != ours:
            raise InputError(
                f"{path.name} is the spec of a network with {name} {theirs}",
                expected=f"{name} {ours}, as the checkpoint has",
                hint="medattn-edge inspect CHECKPOINT --spec > spec.json",
            )
    if spec.stride != loaded.spec.stride:
        raise InputError(
            f"{path.name} says that sizes are multiples of {spec.stride}",
            expected=f"{loaded.spec.stride}, as this network's settings make it",
            hint=f'"stride": {list(loaded.spec.stride)} in the file, or other settings in its "config"',
        )
    return replace(spec, config=loaded.spec.config), given


def changes_of(options: SpecOptions, spec: ModelSpec) -> dict[str, Any]:
    """The fields of a spec that the options change; raises UsageError for one that cannot be read."""
    changes: dict[str, Any] = {}
    typed = options.typed
    for option, text in typed.items():
        match option:
            case "--patch":
                changes["patch"] = parse_sizes(text)
            case "--spacing":
                changes["spacing"] = None if text == "none" else parse_spacing(text)
            case "--intensity":
                changes["intensity"] = Intensity.parse(text)
            case "--labels" | "--region-order" | "--channels":
                changes[_FIELDS[option]] = tuple(name.strip() for name in text.split(","))
            case "--orientation" | "--axes" | "--mirror":
                changes[_FIELDS[option]] = text.upper()
            case "--modality":
                changes["modality"] = "+".join(modalities_of(text))
            case "--after":
                changes["cleanup"] = tuple(map(Cleanup.parse, options.after))
            case "--activation" | "--body-part":
                changes[_FIELDS[option]] = text
    if "--plane" in typed:
        if spec.dims != 2:
            raise UsageError(
                "--plane for a 3-D network", expected="--plane of a 2-D network only", hint="--orientation RAS"
            )
        changes["orientation"] = with_plane(changes.get("orientation", spec.orientation), typed["--plane"])
    activation = changes.get("activation", spec.activation)
    if activation == "sigmoid" and not spec.overlapping and "labels" not in changes:
        changes["labels"] = tuple(f"region_{number}" for number in range(1, spec.outputs + 1))
    return changes


def _note_overridden(path: Path, spec: ModelSpec, changes: Mapping[str, Any]) -> None:
    changed = {name: value for name, value in changes.items() if getattr(spec, name) != value}
    before, after = assumed_values(spec, changed), assumed_values(replace(spec, **changes), changed)
    for option, value in after.items():
        console.note(f"{option} {value}, instead of {before.get(option, 'nothing')} as {path.name} has it")


def _ask_for_background(spec: ModelSpec) -> None:
    """Raise UsageError where labels that exclude each other do not begin with a background."""
    if spec.overlapping or is_background(spec.labels[0]):
        return
    names = ",".join(spec.labels)
    raise UsageError(
        f"the labels {names} begin with {spec.labels[0]!r}, which does not read as a background",
        expected="the background first for softmax, or regions, with --activation sigmoid",
        hint=f"--labels background,{','.join(spec.labels[1:])} if output 0 is the background; "
        f"--activation sigmoid --labels {names} if every output is a region of its own; "
        "--first-label-is-background if it is, under this name",
    )
