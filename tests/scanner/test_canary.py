"""The canary: a known answer to a fixed input, before anything of a patient is segmented."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="the extra node is not installed")


from medattn_edge.artifact import Artifact, Manifest, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.session import Session
from medattn_edge.errors import OutputError, quoted
from medattn_edge.file_gate import FileGate
from medattn_edge.gates import TRUE_LABELS
from medattn_edge.scanner.work.canary import CanaryError, check_gate, gate_note, run_canary


@pytest.fixture(scope="module")
def session(model: Path) -> Iterator[Session]:
    with open_session(model, threads=1) as opened:
        yield opened


def written(root: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((root / "canary.json").read_text())
    return found


def broken(model: Path, folder: Path, change: Any) -> Path:
    """The artifact with its weights changed, and a manifest that says so: what a bad conversion would leave."""
    import onnx
    from onnx import numpy_helper

    copy = folder / model.name
    for path in model.parent.glob(f"{model.name}*"):
        shutil.copy(path, folder)
    graph = onnx.load(copy)
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(change(values), tensor.name))
    onnx.save(graph, copy)
    [manifest] = folder.glob(f"{model.name}*.json")
    manifest.write_text(manifest.read_text().replace(sha256(model), sha256(copy)))
    return copy


LABELS = ("right_lung",)
BOTH = FileGate(**TRUE_LABELS.limits, labels=LABELS)


def manifest_with(model: Path, case: dict[str, Any] | None, gate: FileGate | None = BOTH, **more: Any) -> Manifest:
    cases = () if case is None else ({"input": "held out", **case},)
    return replace(Artifact.read(model).manifest, gate=gate, agreement=cases, **more)


def figures(dice: Any = 0.995, share: float = 1.0) -> dict[str, Any]:
    before, after = dict.fromkeys(LABELS, 0.8), dict.fromkeys(LABELS, 0.8 * share)
    limits = dict(BOTH.limits)
    return {
        "thresholds": limits,
        "dice": dict.fromkeys(LABELS, dice),
        "reference_dice": before,
        "candidate_dice": after,
    }


def test_the_figures_of_a_manifest_are_held_to_the_gate_in_it(model: Path) -> None:
    right = manifest_with(model, figures())
    check_gate(right)
    assert "held by the manifest's figures, Dice with the reference 0.995000" in gate_note(right)
    without_truth = {key: value for key, value in figures().items() if key != "reference_dice"}
    for wrong, said in (
        (figures(0.98), "Dice with the reference of right_lung is 0.98, below 0.99"),
        (figures(share=0.998), "below 0.999"),
        (figures(share=1.02), "above 1.01"),
        (figures(None), "missing"),
        (without_truth, "missing"),
        ({**figures(), "dice": {}}, "missing"),
        (None, "missing"),
    ):
        with pytest.raises(CanaryError, match=said) as raised:
            check_gate(manifest_with(model, wrong))
        assert raised.value.reason == "gate_not_held"


def test_where_a_manifest_has_no_figures_of_a_gate_it_is_said(model: Path) -> None:
    compiled = manifest_with(
        model, {"thresholds": {"min_dice": 0.999}, "dice": {"right_lung": 0.5}}, target={"runs_on": {}}
    )
    check_gate(compiled)
    assert "not held here, for a compiled file has no figures of it: compare holds it" in gate_note(compiled)
    check_gate(manifest_with(model, None, None))
    assert "carries no gate" in gate_note(manifest_with(model, None, None))


def test_the_first_answer_is_written_down_and_the_second_is_the_same(session, tmp_path):
    first = run_canary(session, "a" * 64, tmp_path)
    assert list(written(tmp_path).values()) == [first]
    before = (tmp_path / "canary.json").stat().st_mtime_ns
    assert run_canary(session, "a" * 64, tmp_path) == first
    assert (tmp_path / "canary.json").stat().st_mtime_ns == before


def test_another_session_of_the_same_artifact_gives_the_same_answer(session, model, tmp_path):
    first = run_canary(session, "a" * 64, tmp_path)
    with open_session(model, threads=1) as another:
        assert run_canary(another, "a" * 64, tmp_path) == first
    assert len(written(tmp_path)) == 1


def test_another_artifact_and_another_number_of_threads_have_answers_of_their_own(session, model, tmp_path):
    run_canary(session, "a" * 64, tmp_path)
    run_canary(session, "b" * 64, tmp_path)
    with open_session(model, threads=2) as another:
        run_canary(another, "a" * 64, tmp_path)
    assert len(written(tmp_path)) == 3


def test_an_answer_that_is_not_the_known_one_is_refused_and_stays_refused(session, tmp_path):
    run_canary(session, "a" * 64, tmp_path)
    [key] = written(tmp_path)
    (tmp_path / "canary.json").write_text(json.dumps({key: "0" * 64}))
    for _ in range(2):
        with pytest.raises(CanaryError, match="not those") as raised:
            run_canary(session, "a" * 64, tmp_path)
        assert raised.value.reason == "canary_changed"
    assert written(tmp_path) == {key: "0" * 64}


def test_a_network_with_other_weights_gives_another_answer(session, model, tmp_path):
    right = run_canary(session, "a" * 64, tmp_path)
    wrong = broken(model, tmp_path, lambda values: -values)
    with open_session(wrong, threads=1) as opened, pytest.raises(CanaryError) as raised:
        run_canary(opened, "a" * 64, tmp_path)
    assert raised.value.reason == "canary_changed"
    assert list(written(tmp_path).values()) == [right]


def test_logits_that_are_not_finite_are_refused_and_never_written_down(model, tmp_path):
    wrong = broken(model, tmp_path, lambda values: values * np.float32(np.nan))
    with open_session(wrong, threads=1) as opened, pytest.raises(CanaryError, match="not finite") as raised:
        run_canary(opened, "a" * 64, tmp_path)
    assert raised.value.reason == "canary_not_finite"
    assert not (tmp_path / "canary.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"a": 1}', '"text"'])
def test_a_damaged_record_is_refused_with_what_to_type(session, tmp_path, content):
    (tmp_path / "canary.json").write_text(content)
    with pytest.raises(CanaryError, match="damaged") as raised:
        run_canary(session, "a" * 64, tmp_path)
    assert raised.value.reason == "canary_damaged"
    assert raised.value.hint == f"rm {quoted(tmp_path / 'canary.json')}"
    assert (tmp_path / "canary.json").read_text() == content


def test_workers_that_start_together_lose_none_of_their_answers(session, tmp_path):
    names = [f"{number:064x}" for number in range(24)]
    together = threading.Barrier(len(names))

    def start(name: str) -> None:
        together.wait()
        run_canary(session, name, tmp_path)

    threads = [threading.Thread(target=start, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written(tmp_path)) == len(names)


def test_a_root_that_is_gone_is_told(session, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        run_canary(session, "a" * 64, tmp_path / "gone")
