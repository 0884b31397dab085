"""A volume end to end as a user of MONAI does it, around the eager network; run by volume.py in a process of its own.

    python benchmarks/volume_monai.py CHECKPOINT SCAN OUTPUT.nii.gz [--sw-batch-size 1] [--threads 2] [--patch 96x96x96]

Same steps, patch, overlap and weights as `medattn-edge infer`: load, orient, resample, scale, slide, resample the
logits back, argmax, save. The windows lie elsewhere (MONAI's steps are fixed, ours are even), so
labels differ a little.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import monai.transforms as tr
import torch
import typer
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from medattn_edge.models.checkpoint import load
from medattn_edge.spec import Intensity

AXES = {"D": "S", "H": "P", "W": "L"}
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def main(
    checkpoint: Path,
    scan: Path,
    output: Path,
    sw_batch_size: int = 1,
    threads: int = 2,
    patch: str = "",
    warm: Annotated[bool, typer.Option(help="The scan twice; the seconds of the second time are printed.")] = False,
) -> None:
    """Segment a scan."""
    torch.set_num_threads(threads)
    loaded = load(checkpoint)
    spec, network = loaded.spec, loaded.network.eval()
    size = tuple(map(int, patch.split("x"))) if patch else spec.patch
    steps = [
        tr.LoadImaged("image"),
        tr.EnsureChannelFirstd("image"),
        tr.Orientationd("image", axcodes="".join(AXES[axis] for axis in spec.axes), labels=LABELS),
    ]
    if spec.spacing is not None:
        steps.append(tr.Spacingd("image", pixdim=[spec.spacing["DHW".index(axis)] for axis in spec.axes]))
    before = tr.Compose([*steps, scaling(spec.intensity)])
    after = tr.Compose(
        [
            tr.Invertd("logits", transform=before, orig_keys="image", nearest_interp=False),
            tr.AsDiscreted("logits", argmax=True),
            tr.SaveImaged("logits", output_dir=output.parent, output_dtype="uint8", resample=False, print_log=False,
                          output_name_formatter=lambda meta, saver: {"subject": name, "idx": None}, output_postfix="",
                          separate_folder=False, output_ext=".nii.gz"),
        ]
    )  # fmt: skip
    name = output.name.removesuffix(".nii.gz")
    inferer = SlidingWindowInferer(size, sw_batch_size, overlap=0.5, mode="gaussian")
    for _ in range(2 if warm else 1):
        start = time.perf_counter()
        case = before({"image": str(scan)})
        with torch.inference_mode():
            logits = inferer(case["image"][None], network)[0]
            case["logits"] = MetaTensor(logits, meta=case["image"].meta)
            after(case)
    if warm:
        print(time.perf_counter() - start)


def scaling(intensity: Intensity) -> tr.Transform:
    """The transform of MONAI that does what the spec says."""
    if (window := intensity.span) is not None:
        return tr.ScaleIntensityRanged("image", *window, 0.0, 1.0, clip=True)
    return {"zscore": tr.NormalizeIntensityd, "minmax": tr.ScaleIntensityd, "none": tr.Identityd}[str(intensity)](
        "image"
    )


if __name__ == "__main__":
    typer.run(main)
