"""One table of gates: what decides is written down once, and says why."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from medattn_edge.agreement import Agreement, Thresholds
from medattn_edge.gates import FP16, FP32, GATES, INT8, REDUCED, REDUCED_NOISE, RUNTIME_GAP, TRUE_LABELS, Gate

ROOT = Path(__file__).parents[1]
FIGURES = {item.name for item in fields(Thresholds)} | {"max_gap_db", "clip_db", "min_fp32_sqnr_db"}
ELSEWHERE = sorted(
    path
    for room in ("medattn_edge", "cli", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
    if path.name not in ("gates.py", "agreement.py")
)


def numbers(tree: ast.AST) -> list[str]:
    """The figures of a gate that a module gives a number to: as an argument, a default, or a constant of its own."""

    def is_number(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Constant) and type(node.value) in (int, float)

    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in FIGURES and is_number(node.value):
            wrong.append(f"line {node.value.lineno}: {node.arg}=...")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given, kept = node.args.args, node.args.defaults
            defaults = [*zip(given[len(given) - len(kept) :], kept, strict=True)]
            defaults += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)  # type: ignore[arg-type]
            named = [one for one, value in defaults if one.arg in FIGURES | {"gate"} and is_number(value)]
            wrong += [f"line {one.lineno}: {one.arg}" for one in named]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_number(node.value):
            wrong += [f"line {node.lineno}: {node.target.id}"] if node.target.id in FIGURES | {"gate"} else []
        if isinstance(node, ast.Assign) and is_number(node.value):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
            wrong += [f"line {node.lineno}: {name}" for name in names if name.endswith(("_GATE", "GAP_DB", "SAME_DB"))]
    return wrong


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_has_a_threshold_of_its_own(path: Path) -> None:
    assert numbers(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "Thresholds(min_dice=0.999)",
        "def f(a, gate: float = 0.999): ...",
        "def f(*, min_dice: float = 0.9): ...",
        "class S:\n    gate: float = 0.999",
        "MAX_GAP_DB = 6.0",
    ],
)
def test_a_threshold_elsewhere_is_noticed(text: str) -> None:
    assert len(numbers(ast.parse(text))) == 1


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_gate_says_why_and_who_decides_by_it(gate: Gate) -> None:
    assert len(gate.why) > 40
    for module in gate.used_by:
        source = importlib.util.find_spec(f"medattn_edge.{module}")
        assert source is not None, f"{module} is not there"
        assert "gates" in Path(str(source.origin)).read_text(encoding="utf-8"), f"{module} does not read the table"


def test_the_names_of_the_gates_differ() -> None:
    assert len({gate.name for gate in GATES}) == len(GATES)


def test_a_lossy_gate_is_never_stricter_than_that_of_fp32() -> None:
    for gate in (FP16, REDUCED):
        assert gate.limits["min_sqnr_db"] < FP32.limits["min_sqnr_db"]
    assert TRUE_LABELS.limits["min_dice"] <= INT8.limits["min_dice"] <= FP16.limits["min_dice"] < 1
    assert TRUE_LABELS.limits["min_true_dice_share"] < 1 < TRUE_LABELS.limits["max_true_dice_share"]
    assert RUNTIME_GAP.limits["clip_db"] > FP32.limits["min_sqnr_db"]


def test_a_gate_without_limits_asks_for_finite_logits() -> None:
    lost = Agreement(1.0, -10.0, 0.0, {"organ": 0.0}, {"organ": 100.0}, 0, 0)
    assert REDUCED_NOISE.thresholds.failures(lost) == []
    assert REDUCED_NOISE.thresholds.failures(Agreement(1.0, 0.0, 1.0, {}, {}, 0, 0, finite=False))


def test_a_gate_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        FP32.limits["min_sqnr_db"] = 0.0  # type: ignore[index]
