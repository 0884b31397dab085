"""Recipe: everything that is asked of a deployment but its files, as TOML that makes the same release again."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import InputError, UsageError, quoted
from medattn_edge.gates import TRUE_LABELS
from medattn_edge.installation import upgrade_line
from medattn_edge.nearby import key_hint, place_hint
from medattn_edge.newer_python import tomllib

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA: Final = 1
_SHOWN: Final = "medattn-edge deploy CHECKPOINT SCAN -o release --dump-config shows one"
CPU: Final = "cpu"
TARGETS: Final = (CPU, "tensorrt", "tensorrt-rtx", "jetson")
RECIPE: Final = "deploy.toml"
_INPUTS: Final = "inputs"
_HEAD: Final = "# medattn-edge deploy CHECKPOINT SCAN... -o release --config deploy.toml\n"
_POSITIVE: Final = ("samples", "held_out_samples", "max_trials", "measured_patches", "release_version")
_SHARES: Final = ("min_dice", "min_true_dice_share", "max_true_dice_share")


@dataclass(frozen=True, kw_only=True)
class DeployRecipe:
    """What is asked. Every field is a key of deploy.toml; what is None or empty there is left out.

    Attributes:
        target: what will run it: cpu, tensorrt, tensorrt-rtx or jetson.
        candidates: the only files to choose from, such as `fp32.onnx`; empty for all that the target has.
        batch: patches of one run; 0: tuned on this host, where the target is its CPU, and 1 where it is not.
        overlap: of the windows that a scan is covered with, instead of the spec's; None: tuned on this host, where the
            target is its CPU, and the spec's where it is not.
        opset: of ONNX.
        patch: size of the input, (H, W) or (D, H, W); empty for the checkpoint's own.
        network: of the checkpoint, where it has to be said, as for `export`.
        weights: which of several sets of weights of the file.
        settings: KEY=VALUE of a foreign checkpoint.
        rewrites: of fp32.xml; empty: tuned on this host.
        tune_duration_s: after it no other alternative of the rewrites, or of the threads, is tried.
        compute_capabilities: of the GPUs to build for, such as sm86; empty: the GPU of this host.
        method: how ranges come from what was seen: minmax, percentile or entropy.
        samples: patches to calibrate on.
        held_out_samples: patches that a quantizer is judged on.
        max_trials: quantised graphs to judge at most, of each quantizer.
        seed: of the choice of patches.
        isa: the CPU that will run it: x86-vnni, x86 or arm; empty for this host's.
        min_dice: Dice with the reference that every label must reach; None for what `gates` asks of each precision.
        min_true_dice_share: share of the reference's true Dice, with true labels; None for that of `gates.TRUE_LABELS`.
        max_true_dice_share: likewise, at most.
        judge_labels: the only labels to judge; empty for all.
        label_values: NAME=VALUE, of the files of true labels.
        deadline_ms: what a run of a batch may take, by `gates.DEADLINE`; None for no deadline.
        threads: of the CPU, while it is calibrated, judged and timed; 0: as many as this process may use.
        run_threads: that the chosen file is to be run with; 0: tuned on this host.
        duration_s: of the timing of each candidate.
        measured_patches: of each held-out scan, that candidates are held to before they are timed.
        report: whether the release has report.html and report.json, which `evidence` gathers of the chosen file.
        name: of the release; empty: made from the checkpoint's file name.
        release_version: of the release.
        inputs: name -> SHA-256 of the files that a stored recipe was used with; empty before that.

    Raises:
        UsageError: a value that nothing can follow.
    """

    target: str = CPU
    candidates: tuple[str, ...] = ()
    batch: int = 0
    overlap: float | None = None
    opset: int = 18
    patch: tuple[int, ...] = ()
    network: str = ""
    weights: str = ""
    settings: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    tune_duration_s: float = 120.0
    compute_capabilities: tuple[str, ...] = ()
    method: str = "minmax"
    samples: int = 32
    held_out_samples: int = 16
    max_trials: int = 32
    seed: int = 0
    isa: str = ""
    min_dice: float | None = None
    min_true_dice_share: float | None = None
    max_true_dice_share: float | None = None
    judge_labels: tuple[str, ...] = ()
    label_values: tuple[str, ...] = ()
    deadline_ms: float | None = None
    threads: int = 0
    run_threads: int = 0
    duration_s: float = 5.0
    measured_patches: int = 4
    report: bool = True
    name: str = ""
    release_version: int = 1
    inputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(
                f"the target {self.target!r}", expected=f"one of {', '.join(TARGETS)}", hint="--target cpu"
            )
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise _refused(name, getattr(self, name), "at least 1", 1)
        for name in ("batch", "threads", "run_threads", "seed", "duration_s", "tune_duration_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise _refused(name, getattr(self, name), "a number from 0 on", 0)
        if self.deadline_ms is not None and not 0 < self.deadline_ms < math.inf:
            raise _refused("deadline_ms", self.deadline_ms, "milliseconds, above 0", 50)
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise _refused(name, value, "a share from 0 on", TRUE_LABELS.limits[name])
        if self.min_dice is not None and self.min_dice > 1:
            raise _refused("min_dice", self.min_dice, "a Dice from 0 to 1", 0.999)
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise _refused("overlap", self.overlap, "a share of the patch from 0 to below 1", 0.5)
        if any(size < 1 for size in self.patch) or len(self.patch) not in (0, 2, 3):
            raise _refused("patch", "x".join(map(str, self.patch)), "HxW or DxHxW in voxels", "256x256")

    @property
    def first_batch(self) -> int:
        """Patches of one run that candidates are made and chosen with, before a batch is tuned."""
        return self.batch or 1

    def to_toml(self) -> str:
        """The recipe as a file; `from_toml` is its inverse, and the same recipe gives the same bytes."""
        lines = [f"schema = {SCHEMA}"]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != _INPUTS and value is not None and value != ():
                lines.append(f"{item.name} = {_as_toml(value)}")
        if self.inputs:
            lines += ["", f"[{_INPUTS}]", *(f"{_as_toml(name)} = {_as_toml(one)}" for name, one in self.inputs.items())]
        return _HEAD + "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, path: Path | str = RECIPE) -> Self:
        """A recipe from its file.

        Args:
            text: of the file.
            path: for messages.

        Raises:
            InputError: it is not valid TOML, of a newer schema, or has a key or a value that no recipe has.
        """
        try:
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"{path} is not valid TOML: {error}", expected="a recipe", hint=_SHOWN) from error
        schema = values.pop("schema", None)
        if type(schema) is not int or schema < 1:
            raise InputError(f"{path} has no schema number", expected=f"schema = {SCHEMA}", hint=_SHOWN)
        if schema > SCHEMA:
            raise InputError(
                f"{path} is of schema {schema}",
                expected=f"schema {SCHEMA} or older",
                hint=upgrade_line(),
            )
        known = {item.name: item for item in fields(cls)}
        for name in values:
            if name not in known:
                raise InputError(
                    f"{path} has the key {name!r}",
                    expected=f"one of {', '.join(known)}",
                    hint=key_hint(name, list(known)),
                )
        try:
            return cls(**{name: _read(name, value, known[name]) for name, value in values.items()})
        except UsageError as error:
            raise InputError(f"{path}: {error.found}", expected=error.expected, hint="change the line") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The recipe of a file; raises InputError when it cannot be read, and as `from_toml`."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            hint = f"ls -l {quoted(path)}" if path.exists() else place_hint(path, _SHOWN)
            raise InputError(f"{path} cannot be read: {why}", expected="a recipe in TOML", hint=hint) from error
        return cls.from_toml(text, path)

    def pinned(self, **chosen: Any) -> Self:
        """The recipe with what was chosen in the place of what was tuned.

        Args:
            chosen: fields and their values.
        """
        return replace(self, **chosen)


def _read(name: str, value: Any, known: Any) -> Any:
    """A value of TOML as the field's own kind; raises UsageError for another kind."""
    default = known.default if known.default is not MISSING else {}
    kind = str(known.type)
    if isinstance(default, dict):
        if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
            return value
        raise _refused(name, value, "a table of texts", "")
    if kind.startswith("tuple"):
        inner: type = int if "int" in kind else str
        if isinstance(value, list) and all(type(one) is inner for one in value):
            return tuple(value)
        raise _refused(name, value, f"a list of {'whole numbers' if inner is int else 'texts'}", "[]")
    if kind.startswith("float"):
        if type(value) in (int, float):
            return float(value)
        raise _refused(name, value, "a number", 1.0)
    wanted: type = {"int": int, "bool": bool}.get(kind, str)
    if type(value) is not wanted:
        words = {int: "a whole number", bool: "true or false", str: "a text"}
        raise _refused(name, value, words[wanted], json.dumps(default))
    return value


def _refused(name: str, value: Any, expected: str, example: Any) -> UsageError:
    return UsageError(f"{name} is {value!r}", expected=expected, hint=f"--{name.replace('_', '-')} {example}")


def _as_toml(value: Any) -> str:
    """A text, number or tuple of these in one line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's strings are TOML's, but for the delete character, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
