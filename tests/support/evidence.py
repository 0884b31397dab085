"""Evidence without a measurement: a report's records, by hand, with every section filled."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from medattn_edge.evidence.records import (
    AttentionPair,
    Case,
    CaseRun,
    Check,
    Evidence,
    LayerFigure,
    NotMeasured,
    Overlay,
    RejectedCandidate,
    StructureFigures,
    SurfaceFigures,
)
from medattn_edge.evidence.volumes import volume_agreements

DIGEST = "ab" * 32


def png(seed: int = 0) -> bytes:
    """A small picture."""
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()


def evidence(name: str = "organ", *, verdict: str = "pass", word: str = "", **more: Any) -> Evidence:
    """Two cases of one artifact in one runtime.

    Args:
        name: of the only structure.
        verdict: of the only check.
        word: put into every text that comes from outside.
        more: other fields.
    """
    surfaces = SurfaceFigures(1.25, 0.99875, 0.9375)

    def structure(volume: float) -> StructureFigures:
        return StructureFigures(
            f"{name}{word}", "", 0.999125, 0.90625, 0.90525, 0.998875, volume, volume * 1.01, 1.0, surfaces, surfaces,
            surfaces,
        )  # fmt: skip

    cases = tuple(
        Case(
            f"case {number}{word}", DIGEST, (4, 40, 36), (5.0, 0.75, 0.75), "mm",
            (CaseRun(f"net.onnx{word}", f"onnxruntime{word}", "pass", (), 61.25, 0.125, 0.99975, 12, 9, 0.75,
                     (structure(100.0 * number),)),),
        )
        for number in (1, 2)
    )  # fmt: skip
    row = {
        "artifact": f"net.onnx{word}", "backend": f"onnxruntime{word}", "device": "cpu", "precision": "int8",
        "verdict": "pass", "failures": [], "batch": 1, "threads": 2, "patch": [32, 32], "p50_ms": 12.5, "p90_ms": 13.5,
        "p99_ms": 14.5, "max_ms": 15.5, "miss_rate": 0.0, "deadline_ms": 50.0, "ratio_to_reference": 2.25,
        "ratio_spread": [2.0, 2.5], "cold_start_ms": 321.0, "peak_rss_mb": 123.0, "rounds": 4, "gflop": 1.5,
        "fraction_of_peak": 0.375, "samples_ms": [12.0, 12.5, 13.0, 15.5],
    }  # fmt: skip
    described = {
        "network": "attention-unet-2d", "labels": ["background", f"{name}{word}"], "patch": [32, 32],
        "precision": "int8", "exporter": "onnx", "sha256": DIGEST, "content_sha256": DIGEST, "companions": {},
        "lineage": [{"sha256": "cd" * 32, "file": None, "made": "checkpoint"},
                    {"sha256": DIGEST, "file": f"net.onnx{word}", "made": "int8, onnx"}],
        "calibration": {"windows_sha256": DIGEST, "windows": {"calibrated_on": 12, "judged_on": 6}},
        "thresholds": [{"limits": {"min_dice": 0.999}, "inputs": 1}], "rewrites": [], "target": {},
        "tools": {"numpy": f"2.4.6{word}"},
    }  # fmt: skip
    fields: dict[str, Any] = {
        "sentence": f"A sentence.{word}",
        "checks": (Check("The answer", verdict, f"Dice{word}", f"found{word}", (f"why{word}",)),),
        "reference": {"name": f"net.pth{word}", "sha256": "cd" * 32},
        "artifacts": {f"net.onnx{word}": described},
        "runs": ({"artifact": f"net.onnx{word}", "backend": f"onnxruntime{word}", "verdict": "pass", "failures": [],
                  "thresholds": {"min_dice": 0.999}, "gate": "file", "carried_gate": None},),
        "environment": {"cpu": f"A CPU{word}", "architecture": "x86_64", "instruction_sets": ["avx2"],
                        "physical_cores": 2, "logical_cores": 4, "threads": 2, "python": "3.11",
                        "versions": {"numpy": "2.4.6"}, "warnings": [f"busy{word}"],
                        "roofline": {"fp32_gflops": 222.0, "int8_gops": 777.0}},
        "cases": cases,
        "volumes": volume_agreements(cases),
        "layers": (LayerFigure(f"net.onnx{word}", f"decoder.3.gate.psi{word}", "INT8", 33.25, f"logits{word}"),),
        "latency": {"deadline_ms": 50.0, "rows": [row], "left_out": {}},
        "overlays": (Overlay(f"case 1{word}", f"net.onnx{word}", f"onnxruntime{word}", f"axial{word}", 7, png(1),
                             png(2), png(3)),),
        "attention": (AttentionPair(f"gate 1{word}", png(4), png(5), {f"correlation{word}": 0.96875}),),
        "candidates": (RejectedCandidate(f"nncf{word}", f"slower{word}", {f"times{word}": 0.8125}),),
        "not_measured": (NotMeasured(f"GPU{word}", f"none here{word}"),),
        "notes": (f"a note{word}",),
        **more,
    }  # fmt: skip
    return Evidence(**fields)
