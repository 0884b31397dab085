"""A network from elsewhere, ready to be exported, and its export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, Manifest, sha256, tool_versions, writing
from medattn_edge.backends.check import check
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import InputError, UsageError, quoted
from medattn_edge.exporters import ExportSettings, exporter_of
from medattn_edge.exporters.exporter import FP32_GATE
from medattn_edge.foreign.adopt import IMAGE, LOGITS, Adopted
from medattn_edge.foreign.cost import gflop, operators, parameters
from medattn_edge.foreign.sessions import Activated, Centred
from medattn_edge.foreign.source import TITLES
from medattn_edge.spec import SPEC_OPTIONS, ModelSpec, assumed_values


@dataclass(frozen=True)
class ForeignNetwork:
    """What `read_foreign` found in a file.

    Attributes:
        kind: of the file; see `source`.
        spec: what the network expects: channels, outputs and patch are the file's, the rest is assumed.
        sha256: of the file.
        graph: the network in our form.
        open_reference: the file's own answer: what a spec expects, batch, threads (0: the runtime's) -> a session. Of
            an ONNX file it answers logits, of a torch program what this returns.
        batch: the N of `graph`, None for any.
        notes: what was changed or left out, in sentences for people.
        assumed: fields of the spec that nobody gave.
    """

    kind: str
    spec: ModelSpec
    sha256: str
    graph: Adopted
    open_reference: Callable[[ModelSpec, int | None, int], Session]
    batch: int | None
    notes: tuple[str, ...]
    foreign: bool = True
    assumed: tuple[str, ...] = tuple(name for name in SPEC_OPTIONS if name not in ("patch", "activation"))

    @property
    def layout(self) -> str:
        """What it came as, for messages."""
        return f"{TITLES[self.kind]}, opset {self.graph.opset}"

    @property
    def reading(self) -> dict[str, Any]:
        """How the file was read, for the manifest: what is assumed of its input, and what was done to it."""
        return {"spec_assumptions": assumed_values(self.spec, self.assumed), "remarks": list(self.notes)}

    def with_spec(self, spec: ModelSpec, given: Iterable[str] = ()) -> ForeignNetwork:
        """The same network under another spec; raises UsageError for another patch than it was read for.

        Args:
            spec: the other spec.
            given: fields of it that somebody gave, so that they are assumed no more.
        """
        own = self.spec
        fixed = (own.in_channels, own.outputs, own.patch)
        if (spec.in_channels, spec.outputs, spec.patch) != fixed:
            raise UsageError(
                f"a spec for {spec.in_channels} channels, {spec.outputs} outputs and the patch {spec.patch}",
                expected=f"{fixed[0]} channels, {fixed[1]} outputs and the patch {fixed[2]}, as the network was read",
                hint="--patch " + "x".join(map(str, own.patch)),
            )
        known = set(given)
        rest = tuple(name for name in self.assumed if name not in known)
        return replace(self, spec=replace(spec, network=own.network, config=own.config), assumed=rest)


def default_spec(kind: str, graph: Adopted) -> ModelSpec:
    """The spec of a graph: channels, outputs, patch and activation are facts, the label names are numbers.

    `config` says what became `image` and `logits`, and which activation was cut off.
    """
    regions = graph.activation == "Sigmoid" and graph.outputs > 1
    if regions:
        labels = tuple(f"region_{index}" for index in range(1, graph.outputs + 1))
    else:
        labels = ("background", *(f"class_{index}" for index in range(1, max(graph.outputs, 2))))
    config = {"image": graph.image, "logits": graph.logits, "activation_removed": graph.activation}
    return ModelSpec(
        network=f"foreign-{kind}",
        in_channels=graph.in_channels,
        labels=labels,
        patch=graph.patch,
        stride=graph.patch,  # the one size that it has been seen with
        outputs=graph.outputs,
        activation="sigmoid" if regions else "softmax",
        config={key: value for key, value in config.items() if value},
    )


def export_foreign(
    network: ForeignNetwork,
    path: Path,
    samples: Mapping[str, Patches],
    *,
    settings: ExportSettings | None = None,
    gate: Thresholds = FP32_GATE,
) -> Artifact:
    """Write a network from elsewhere as an FP32 ONNX artifact, checked against the file as its own runtime runs it.

    Args:
        network: what `read_foreign` returned.
        path: NAME.onnx.
        samples: name -> float32 (n, C, *patch), what the check runs on; give real input as well as random.
        settings: its batch must be the one that the network was read for; the opset of an ONNX file stays.
        gate: what every sample must reach.

    Raises:
        AgreementError: when a sample does not reach the gate; nothing is written.
        InputError: when the answers are probabilities and not logits.
        UsageError: for a suffix or a setting that does not fit.
        OutputError: when the files cannot be written.
    """
    import onnx

    settings, path = settings or ExportSettings(batch=network.batch), Path(path)
    _check_settings(network, path, settings)
    spec, graph = network.spec, network.graph
    with writing(path) as (file, sidecar):
        onnx.save(graph.model, str(file))
        manifest = replace(manifest_of(network), sha256=sha256(file))
        with (
            network.open_reference(spec, network.batch, 0) as reference,
            OnnxRuntimeSession(Artifact(file, manifest), Options()) as candidate,
        ):
            if network.kind == "onnx" or not graph.activation:
                check_scores(reference, samples)
                cases = check(reference, candidate, samples, gate)
            else:  # a program cannot be asked for what is before its activation: what comes after it is compared
                owner = Centred(reference) if graph.activation == "Sigmoid" else reference
                cases = check(owner, Activated(candidate, graph.activation), samples, gate)
        manifest = replace(manifest, agreement=tuple(cases))
        manifest.write(sidecar)
    return Artifact(path, manifest)


def manifest_of(network: ForeignNetwork) -> Manifest:
    """The manifest of a network's artifact, without its hash and its agreement."""
    spec, model, free = network.spec, network.graph.model, network.batch or -1
    return Manifest(
        spec=spec,
        precision="fp32",
        sha256="",
        parent_sha256=network.sha256,
        exporter="onnx",
        batch=network.batch,
        inputs={IMAGE: [free, spec.in_channels, *spec.patch]},
        outputs={LOGITS: [free, spec.outputs, *spec.patch]},
        operators=operators(model),
        parameters=parameters(model),
        gflop=gflop(model),
        tools=tool_versions(),
        reading=network.reading,
    )


def _check_settings(network: ForeignNetwork, path: Path, settings: ExportSettings) -> None:
    if exporter_of(path).name != "onnx":
        raise UsageError(
            f"{path.name} cannot be written from this {TITLES[network.kind]}",
            expected="NAME.onnx, the form that every runtime here takes",
            hint=f"-o {quoted(f'{path.stem}.onnx')}",
        )
    if settings.attention:
        raise UsageError(
            "attention maps of a network from elsewhere",
            expected="a network whose maps have names",
            hint="export without --attention",
        )
    if settings.batch != network.batch:
        raise UsageError(
            f"a batch of {settings.batch or 'any size'} for a network that was read for {network.batch or 'any'}",
            expected="one batch",
            hint="read_foreign(path, batch=...)",
        )


def check_scores(reference: Session, samples: Mapping[str, Patches]) -> None:
    """Refuse what is a probability on every sample: an activation inside, which the end of the graph does not show.

    Raises InputError.
    """
    answers = [reference.run_any(patches) for patches in samples.values()]
    low, high = min(float(one.min()) for one in answers), max(float(one.max()) for one in answers)
    alone = reference.spec.outputs == 1
    sums = 1.0 if alone else max(float(np.abs(one.sum(axis=1) - 1).max()) for one in answers)
    if low >= 0 and high <= 1 and (alone or sums < 1e-3):
        raise InputError(
            f"the answers of the network lie between {low:.3g} and {high:.3g}"
            + ("" if alone else " and sum to 1 over the classes")
            + ": they are probabilities",
            expected="logits",
            hint="--output-name TENSOR with the tensor before its Softmax or Sigmoid",
        )
