"""Making: the stages that write a file, each into the folder of its stage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medattn_edge import gates
from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import CompileSettings, compilers
from medattn_edge.backends.session import Patches
from medattn_edge.compile import GivenGraph, RewrittenGraphs, tune
from medattn_edge.compile.compilation import build, plan
from medattn_edge.deploy.candidates import FP16, FP32, CandidatePlan
from medattn_edge.deploy.plan import DeployPlan
from medattn_edge.deploy.recipe import CPU
from medattn_edge.errors import AgreementError, BackendError, InputError, MedattnError, ScanError
from medattn_edge.exporters import ExportSettings, random_patches
from medattn_edge.foreign import ForeignNetwork
from medattn_edge.inference.real_patches import real_patches
from medattn_edge.inference.truth import parse_label_values
from medattn_edge.precision import CalibrationSettings, calibrate, fp16
from medattn_edge.precision.cache import Cache
from medattn_edge.precision.export import SAMPLES, export
from medattn_edge.rewrites import defaults, rewrite

Progress = Callable[[str, int, int], None]
_CHECKED_SCANS = 2  # that an export and a compilation are checked on; the gate looks at all that are held out


class FileMaker:
    """Makes the files of a plan.

    Args:
        planned: what is made.
        cache: where calibrations keep what they have measured.
        progress: called with what is going on, done, and of how many.
    """

    def __init__(self, planned: DeployPlan, cache: Path, progress: Progress) -> None:
        self._plan, self.cache, self._progress = planned, cache, progress
        self._samples: dict[str, Patches] = {}

    def make(self, one: CandidatePlan, folder: Path, parent: Path | None) -> dict[str, Any]:
        """Write a candidate into a folder.

        Args:
            one: what to write.
            folder: of the stage.
            parent: the file that it is made from; None for what comes from the checkpoint.

        Returns:
            `failure`: why it could not be made, empty when it was; it is then no candidate any more.

        Raises:
            MedattnError: what is no verdict on the file: scans, host and options that nothing can be made with, and a
                first export that does not agree.
        """
        path = folder / one.name
        if one.name == FP32:
            self._export(path)
            return {"failure": ""}
        try:
            artifact = self._made(one, path, parent)
        except (AgreementError, BackendError) as error:
            return {"failure": error.found}
        except InputError as error:
            if not one.compiler or isinstance(error, ScanError):
                raise
            return {"failure": error.found}  # of the lint: a graph that the target would compute wrongly
        tuning = artifact.manifest.target.get("tuning", {})
        return {"failure": "", "verified": artifact.manifest.target.get("verified", ""), "tuning": dict(tuning)}

    def _made(self, one: CandidatePlan, path: Path, parent: Path | None) -> Artifact:
        if one.name == FP16 and parent is not None:
            return self._to_fp16(parent, path)
        if one.compiler:
            return self._compile(one, path, parent)
        assert parent is not None
        return self._calibrate(one, parent, path)

    def _export(self, path: Path) -> None:
        recipe, loaded = self._plan.recipe, self._plan.inputs.source.loaded
        network = loaded
        if not isinstance(loaded, ForeignNetwork):
            runtime = {CPU: "onnx", "jetson": "tensorrt"}.get(recipe.target, recipe.target)
            network = rewrite(loaded, defaults(runtime, loaded.spec.patch))  # type: ignore[assignment]
        settings = ExportSettings(recipe.first_batch, recipe.opset)
        export(network, path, samples=self._real("fp32"), settings=settings)

    def _to_fp16(self, parent: Path, path: Path) -> Artifact:
        recipe, artifact = self._plan.recipe, Artifact.read(parent)
        gate = gates.FP16.thresholds
        gate = gate if recipe.min_dice is None else replace(gate, min_dice=recipe.min_dice)
        return fp16.convert(artifact, path, self._real("fp16"), random_patches(artifact.spec, 2), gate=gate)

    def _calibrate(self, one: CandidatePlan, parent: Path, path: Path) -> Artifact:
        recipe, inputs = self._plan.recipe, self._plan.inputs
        settings = CalibrationSettings(
            profile=CPU if recipe.target == CPU else "tensorrt",
            isa=recipe.isa,
            method=recipe.method,
            gate=recipe.min_dice,
            min_true_dice_share=recipe.min_true_dice_share,
            max_true_dice_share=recipe.max_true_dice_share,
            judge_labels=recipe.judge_labels,
            quantizer=one.quantizer,
            samples=recipe.samples,
            held_out_samples=recipe.held_out_samples,
            max_trials=recipe.max_trials,
            seed=recipe.seed,
            threads=recipe.threads,
        )
        return calibrate(
            parent,
            inputs.scans,
            path,
            settings=settings,
            held_out=inputs.held_out,
            labels=inputs.labels,
            label_values=parse_label_values(recipe.label_values),
            cache=Cache(self.cache),
            progress=self._progress,
        )

    def _compile(self, one: CandidatePlan, path: Path, parent: Path | None) -> Artifact:
        recipe, compiler = self._plan.recipe, compilers()[one.compiler]
        settings = CompileSettings(
            compute_capabilities=recipe.compute_capabilities, inference_precision=one.inference_precision
        )
        settings = replace(settings, threads=recipe.threads if "threads" in compiler.settings else 0)
        samples = self._real(one.precision)
        if parent is not None:
            return build(plan(parent, path, compiler.name, settings), samples)
        loaded = self._plan.inputs.source.loaded
        how = ExportSettings(recipe.first_batch, recipe.opset)
        if isinstance(loaded, ForeignNetwork):
            write = partial(export, loaded, samples=samples, settings=how)
        else:
            graphs = RewrittenGraphs(loaded, compiler.name, how)
            if not recipe.rewrites:
                return tune(graphs, path, compiler, settings, samples, recipe.tune_duration_s, self._progress)
            write = partial(graphs.write, recipe.rewrites)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # of a graph that is no candidate
            graph = Path(folder) / f"{path.stem}.onnx"
            write(graph)
            return build(plan(graph, path, compiler.name, settings), samples)

    def _real(self, precision: str) -> dict[str, Patches]:
        """Patches of the first scans under numbers: a manifest need not have their names."""
        spec, count = self._plan.inputs.source.loaded.spec, SAMPLES["fp32" if precision == "fp32" else "fp16"]
        if not self._samples:
            found = real_patches(spec, self._plan.inputs.scans[:_CHECKED_SCANS], max(SAMPLES.values()))
            self._samples = {f"scan {number}": patches for number, patches in enumerate(found.values(), 1)}
        return {name: patches[:count] for name, patches in self._samples.items()}


def tuned_threads(path: Path, samples: Mapping[str, Patches], duration_s: float, folder: Path) -> dict[str, Any]:
    """How many threads run a file fastest on this host, measured in turn; 0 where that cannot be measured.

    Args:
        path: the artifact.
        samples: name -> real input float32 (n, C, *patch).
        duration_s: of the measuring.
        folder: of its own, for what is compiled to measure.

    Returns:
        `threads`, and `alternatives` with their times, or `reason`.
    """
    name, suffix = ("openvino", ".xml") if path.suffix == ".xml" else ("onnxruntime", ".ort")
    try:
        made = tune(
            GivenGraph(path), folder / f"threads{suffix}", compilers()[name], CompileSettings(), samples, duration_s
        )
    except MedattnError as error:
        return {"threads": 0, "reason": error.found, "alternatives": []}
    record = made.manifest.target["tuning"]
    return {"threads": record["threads"], "reason": "", "alternatives": record["alternatives"]}
