"""bisect as it is typed: the layer, why, what helps, and what that does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact
from tests.support.planted import constant, planted, quantised, weight_scale

Run = Callable[..., Any]
QUICK = ("--threads", 1, "--samples", 1)


def test_a_healthy_file_passes_with_exit_code_0(medattn: Run, artifact: Path, scan: Path) -> None:
    done = medattn("bisect", artifact, artifact, scan, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "no layer leaves the reference: PASS (" in done.stdout
    assert "next:" not in done.stdout


def test_the_layer_is_named_with_its_cause_and_what_to_type(
    medattn: Run, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    fault = constant("decoder.1.gate.psi.0", "Conv", 2, lambda bias: bias + 1)
    lie = planted(artifact, tmp_path / "lie.onnx", fault)
    done = medattn("bisect", artifact, lie, scan, *QUICK)
    assert done.returncode == 1, done.stderr
    assert "first to leave the reference: decoder.1.gate.psi" in done.stdout
    assert "decoder.1.gate.psi: the bias of Conv: " in done.stdout
    row = next(line for line in done.stdout.splitlines() if "> decoder.1.gate.psi" in line)
    assert "Conv" in row
    assert "fp32" in row
    assert "(90)" in row
    assert f"next: medattn-edge export CHECKPOINT -o {lie.with_name('lie-again.onnx')} --scan {scan}" in done.stdout
    every = medattn("bisect", artifact, lie, scan, *QUICK, "--all").stdout
    assert every.count("decoder.") > done.stdout.count("decoder.") > 3

    document = json.loads(medattn("bisect", artifact, lie, scan, *QUICK, "--json").stdout)
    assert (document["verdict"], document["first"], document["leaving"]) == (
        "fail",
        "decoder.1.gate.psi",
        ["decoder.1.gate.psi"],
    )
    [one] = [layer for layer in document["layers"] if layer["leaves"]]
    assert (one["module"], one["operator"], one["operators"]) == ("decoder.1.gate.psi", "Conv", ["Conv", "Sigmoid"])
    assert one["local_db"] < one["limit_db"] == 90
    assert document["advice"][0]["command"].startswith("medattn-edge export CHECKPOINT")
    assert document["runtime"] == "onnxruntime"


@pytest.mark.slow
def test_what_is_advised_helps_when_it_is_tried(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    """A layer with another weight scale goes back to floating point, and the rest is quantised as it was."""
    int8 = quantised(artifact, "onnxruntime", "cpu", tmp_path)
    lie = planted(int8, tmp_path / "lie.onnx", weight_scale("decoder.2.merge.rest.2", 0.4))
    done = medattn("bisect", artifact, lie, scan, *QUICK, "--try", "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["first"] == "decoder.2.merge.rest.2"
    tried = document["tried"][0]
    assert "--floating decoder.2.merge.rest.2" in tried["command"]
    assert tried["after"]["sqnr_db"] > tried["before"]["sqnr_db"] + 6
    text = medattn("bisect", artifact, lie, scan, *QUICK, "--try").stdout
    assert "tried: medattn-edge calibrate" in text
    assert text.index("before: SQNR") < text.index("after: SQNR")
    # The command, as it is printed, makes a file in which that layer is not rounded.
    words = tried["command"].split()[1:]
    made = medattn(*words, "--gate", 0, "--threads", 1, "--samples", 4, "--held-out-samples", 2)
    assert made.returncode == 0, made.stderr
    output = Path(words[words.index("-o") + 1])
    assert Artifact.read(output).manifest.recipe["floating_modules"] == ["decoder.2.merge.rest.2"]
    after = medattn("bisect", artifact, output, scan, *QUICK, "--json")
    layers = {(one["module"], one["operator"]): one for one in json.loads(after.stdout)["layers"]}
    assert layers["decoder.2.merge.rest.2", "Conv"]["local_db"] > layers["decoder.1.merge.rest.2", "Conv"]["local_db"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{checkpoint}", "{checkpoint}", "{scan}"], 2, "no graph that can be cut into layers"),
        (["{artifact}", "{artifact}", "{scan}", "--runtime", "openvin"], 2, "'openvin' is not known"),
        (["{artifact}", "{artifact}", "{missing}"], 4, "missing.nii"),
        (["{artifact}", "{missing}.onnx", "{scan}"], 4, "does not exist"),
        (["{artifact}", "{artifact}", "{scan}", "--fold", "1"], 2, "leave them out"),
        (["{artifact}", "{artifact}", "{scan}", "--samples", "0"], 2, "--samples"),
    ],
)
def test_what_cannot_be_bisected_is_refused(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, words: list[str], code: int, said: str
) -> None:
    places = {"checkpoint": checkpoint, "artifact": artifact, "scan": scan, "missing": scan.with_name("missing.nii")}
    done = medattn("bisect", *(word.format(**places) for word in words))
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr


def test_a_module_that_is_not_there_is_refused_with_the_nearest(medattn: Run, artifact: Path, scan: Path) -> None:
    output = artifact.with_name("n.onnx")
    words = ["calibrate", artifact, scan, "-o", output, "--profile", "cpu", "--floating", "decodr.2.merge.rest.2"]
    done = medattn(*words)
    assert done.returncode == 2
    assert "no layer of the graph came from the module 'decodr.2.merge.rest.2'" in done.stderr
    assert "--floating decoder.2.merge.rest.2" in done.stderr
    assert not output.exists()
