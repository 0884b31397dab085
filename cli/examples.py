"""A line that can be typed for every command: the hint where something that it needs was left out."""

from __future__ import annotations

from typing import Any, Final

EXAMPLES: Final = {
    "demo": "medattn-edge demo -o demo",
    "train": "medattn-edge train scan.nii.gz labels.nii.gz -o net.safetensors "
    "--network attention-unet-2d --label 1=liver",
    "export": "medattn-edge export net.safetensors -o net.onnx",
    "calibrate": "medattn-edge calibrate net.onnx scan.nii.gz -o net.int8.onnx --profile cpu",
    "compile": "medattn-edge compile net.onnx -o net.xml",
    "deploy": "medattn-edge deploy net.safetensors one.nii.gz two.nii.gz -o release",
    "inspect": "medattn-edge inspect net.onnx",
    "infer": "medattn-edge infer net.onnx scan.nii.gz -o labels.nii.gz",
    "compare": "medattn-edge compare net.safetensors net.onnx scan.nii.gz",
    "bisect": "medattn-edge bisect net.safetensors net.int8.onnx scan.nii.gz",
    "explain": "medattn-edge explain net.safetensors net.onnx scan.nii.gz -o explained",
    "report": "medattn-edge report net.safetensors net.onnx scan.nii.gz -o report.html",
    "bench": "medattn-edge bench net.onnx --reference net.safetensors",
    "lint": "medattn-edge lint net.onnx --profile cpu",
    "doctor": "medattn-edge doctor",
    "node": "medattn-edge node --config node.toml",
    "node init": "medattn-edge node init net.onnx -o node.toml",
    "node status": "medattn-edge node status --config node.toml",
    "node check": "medattn-edge node check --config node.toml",
    "node requeue": "medattn-edge node requeue KEY --config node.toml",
    "release": "medattn-edge release write net.onnx -o release",
    "release write": "medattn-edge release write net.onnx -o release",
    "release keygen": "medattn-edge release keygen -o key --signer NAME",
    "release sign": "medattn-edge release sign release --key key",
    "release verify": "medattn-edge release verify release --trusted key.pub",
    "release show": "medattn-edge release show release",
    "serve": "medattn-edge serve write net.onnx -o repository",
    "serve write": "medattn-edge serve write net.onnx -o repository",
    "serve check": "medattn-edge serve check repository",
    "release diff": "medattn-edge release diff old new scan.nii.gz",
}


def example_of(context: Any) -> str:
    """The line for the command of a click context; empty for what has none."""
    names = list[str]()
    while context.parent is not None:  # the outermost is the program, which people start by several names
        names.insert(0, context.info_name)
        context = context.parent
    return EXAMPLES.get(" ".join(names), "")
