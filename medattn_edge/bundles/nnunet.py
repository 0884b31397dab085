"""nnU-Net v2's results: plans.json, dataset.json and fold_X/checkpoint_final.pth -> checkpoint with its spec.

nnU-Net is Isensee et al., Nature Methods 18, 203-211, 2021; plans are those of version 2.3 and later, which name the
class of their network.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from medattn_edge.artifact import sha256
from medattn_edge.bundles.documents import entry, read_document
from medattn_edge.bundles.network import OwnersNetwork, check_answer, fill
from medattn_edge.errors import CheckpointError, InputError, MissingDependency, UsageError
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.spec import Intensity, ModelSpec

PLANS, DATASET = "plans.json", "dataset.json"
_WEIGHTS = "checkpoint_final.pth"
_BUILDER = "dynamic_network_architectures"
_AS_STORED = ("SimpleITKIO", "NibabelIO")
_REORIENTED = "NibabelIOWithReorient"  # to RAS


def read_results(folder: Path, orientation: str = "", fold: str = "") -> tuple[Checkpoint, tuple[str, ...]]:
    """The network of a trained configuration with its spec, and what is assumed.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION, as nnU-Net names it.
        orientation: how the training files are stored, as NIfTI tools say it: nnU-Net turns no scan.
        fold: such as 0 or all; empty for the only one.

    Raises:
        InputError: for a folder that lacks something, or says what has no place in a spec.
        CheckpointError: for weights that do not fit.
        UsageError: for a fold or an orientation that is needed.
        MissingDependency: without the library that builds its network.
    """
    plans = read_document(folder / PLANS, "nnU-Net's plans")
    dataset = read_document(folder / DATASET, "nnU-Net's description of its data set")
    path = _weights_of(folder, fold)
    name, plan = _configuration(folder, plans)
    spec, assumptions = spec_of(plans, dataset, name, plan, folder, orientation)
    module = fill(_module(plan, folder, spec), path)
    check_answer(module, spec.in_channels, spec.patch, spec.outputs, folder.name)
    notes = {"plans": str(plans.get("plans_name", "")), "configuration": name, "fold": path.parent.name}
    network = OwnersNetwork(module, spec.patch).eval()
    return Checkpoint(network, spec, sha256(path), f"nnU-Net {name}", foreign=False, notes=notes), assumptions


def _weights_of(folder: Path, fold: str) -> Path:
    folds = sorted(path.parent for path in folder.glob(f"fold_*/{_WEIGHTS}"))
    chosen = [one for one in folds if not fold or one.name == f"fold_{fold}"]
    if len(chosen) != 1:
        known = ", ".join(one.name for one in folds) or "none"
        raise UsageError(
            f"{len(chosen)} of the folds {known} of {folder.name}",
            expected=f"one fold with {_WEIGHTS}; the average of several is no one network",
            hint=f"--fold {folds[0].name.removeprefix('fold_')}" if folds else "train one, or copy its fold here",
        )
    return chosen[0] / _WEIGHTS


def _configuration(folder: Path, plans: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The configuration that the folder is named after, with what it inherits."""
    known = entry(plans, folder / PLANS, "configurations")
    name = folder.resolve().name.rpartition("__")[2]
    if name not in known:
        raise InputError(
            f"{folder.name} ends in none of the configurations {', '.join(known)} of its plans",
            expected="TRAINER__PLANS__CONFIGURATION, as nnU-Net names it",
            hint=f"rename it, such as to nnUNetTrainer__nnUNetPlans__{next(iter(known), '3d_fullres')}",
        )
    plan: dict[str, Any] = {}
    parents, place = set[str](), name
    while place and place not in parents:
        parents.add(place)
        own = dict(entry(known, folder / PLANS, place))
        plan, place = {**own, **plan}, own.get("inherits_from", "")
    if plan.get("previous_stage"):
        raise InputError(
            f"the configuration {name} takes the labels of {plan['previous_stage']} beside the scan",
            expected="a network that sees the scan alone",
            hint="export 3d_fullres",
        )
    return name, plan


def spec_of(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    name: str,
    plan: Mapping[str, Any],
    folder: Path,
    orientation: str = "",
) -> tuple[ModelSpec, tuple[str, ...]]:
    """What plans and data set say, as a spec.

    Args:
        plans: plans.json.
        dataset: dataset.json.
        name: of the configuration.
        plan: the configuration, with what it inherits.
        folder: that they are from, for errors.
        orientation: how the training files are stored.
    """
    channels = entry(dataset, folder / DATASET, "channel_names")
    patch = tuple(entry(plan, folder / PLANS, "patch_size"))
    axes, spacing = _axes(plans, plan, name, len(patch), folder)
    code, assumptions = _orientation(plans, orientation, folder)
    labels, activation, order, remarks = _labels(entry(dataset, folder / DATASET, "labels"), dataset, folder)
    intensity, measured = _intensity(plans, plan, len(channels), folder)
    kind = str(channels.get("0", "")).upper()
    spec = ModelSpec(
        network="nnunet",
        in_channels=len(channels),
        labels=labels,
        patch=patch,
        stride=patch,
        spacing=spacing,
        intensity=Intensity.parse(intensity),
        axes=axes,
        orientation=code,
        activation=activation,
        region_order=order,
        modality="CT" if kind == "CT" else "",
        channels=tuple(map(str, channels.values())) if len(channels) > 1 else (),
    )
    assumptions += [
        *remarks,
        *measured,
        "scans are resampled linearly before intensities are changed; by nnU-Net with cubic splines, afterwards",
        "no test-time mirroring; nnU-Net's predictor mirrors unless --disable_tta is given",
    ]
    return spec, tuple(assumptions)


def _axes(
    plans: Mapping[str, Any], plan: Mapping[str, Any], name: str, dims: int, folder: Path
) -> tuple[str, tuple[float, ...]]:
    """The network's axis order, and the spacing in volume order: nnU-Net's arrays are (z, y, x), then transposed."""
    turned = list(entry(plans, folder / PLANS, "transpose_forward"))
    spacing = [float(mm) for mm in entry(plan, folder / PLANS, "spacing")]
    if sorted(turned) != [0, 1, 2] or dims not in (2, 3) or len(spacing) != dims:
        raise InputError(
            f"transpose_forward {turned} and spacing {spacing} for a patch of {dims} sizes ({name})",
            expected="an order of 0, 1, 2, and one spacing for each size",
            hint=f"python -m json.tool '{folder / PLANS}'",
        )
    if dims == 2 and turned[0] != 0:
        raise InputError(
            f"{name} sees slices along axis {turned[0]} of its files (transpose_forward {turned})",
            expected="slices along the files' last axis",
            hint="export 3d_fullres",
        )
    seen = turned if dims == 3 else turned[1:]
    by_axis = dict(zip(seen, spacing, strict=True))
    return "".join("DHW"[axis] for axis in seen), tuple(by_axis[axis] for axis in sorted(by_axis))


def _orientation(plans: Mapping[str, Any], orientation: str, folder: Path) -> tuple[str, list[str]]:
    reader = entry(plans, folder / PLANS, "image_reader_writer")
    if reader == _REORIENTED:
        if orientation and orientation.upper() != "RAS":
            raise UsageError(f"the orientation {orientation} for {reader}", expected="RAS", hint="leave it out")
        return "RAS", []
    if reader not in _AS_STORED:
        raise InputError(
            f"nnU-Net read the scans of {folder.name} with {reader}",
            expected=f"one of {', '.join((*_AS_STORED, _REORIENTED))}",
            hint="train on NIfTI files",
        )
    if not orientation:
        raise UsageError(
            f"nnU-Net's {reader} turns no scan: the network of {folder.name} sees them as its training files lie",
            expected="to be told how they are stored; another orientation would be silently wrong",
            hint="--orientation CODE, as one of them says: "
            "python -c \"import nibabel as n; print(''.join(n.aff2axcodes(n.load('TRAINING_FILE').affine)))\"",
        )
    return orientation.upper(), [f"the training files are stored in {orientation.upper()}, as --orientation says"]


def _labels(
    given: Any, dataset: Mapping[str, Any], folder: Path
) -> tuple[tuple[str, ...], str, tuple[str, ...], list[str]]:
    """Labels, activation, order of regions, and what is assumed of them."""
    values = {str(name): value for name, value in given.items() if name != "ignore"}
    if "regions_class_order" in dataset or any(isinstance(value, list) and len(value) > 1 for value in values.values()):
        regions = tuple(name for name, value in values.items() if value not in (0, [0]))
        order = dataset.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(regions):
            raise InputError(
                f"regions_class_order {order} for the regions {', '.join(regions)}",
                expected="one label value for each",
                hint=f"python -m json.tool '{folder / DATASET}'",
            )
        return regions, "sigmoid", regions, [f"regions are written in the order of {DATASET}; its values are {order}"]
    flat = {name: value[0] if isinstance(value, list) else value for name, value in values.items()}
    names = sorted(flat, key=lambda name: int(flat[name]))
    if [int(flat[name]) for name in names] != list(range(len(names))):
        raise InputError(
            f"the label values {flat}", expected="0, 1, 2, ... without a gap", hint="nnU-Net refuses these too"
        )
    return tuple(names), "softmax", (), []


def _intensity(plans: Mapping[str, Any], plan: Mapping[str, Any], channels: int, folder: Path) -> tuple[str, list[str]]:
    """The chain of every channel, and what is assumed of them."""
    schemes = list(entry(plan, folder / PLANS, "normalization_schemes"))
    masked = list(plan.get("use_mask_for_norm") or [False] * len(schemes))
    if len(schemes) != channels or len(masked) != channels:
        raise InputError(
            f"{len(schemes)} normalization_schemes and {len(masked)} use_mask_for_norm for {channels} channels",
            expected="one for each",
            hint=f"python -m json.tool '{folder / PLANS}'",
        )
    chains, assumptions = [], []
    for channel, (scheme, mask) in enumerate(zip(schemes, masked, strict=True)):
        match scheme:
            case "CTNormalization":
                place = "foreground_intensity_properties_per_channel", str(channel)
                low, high, mean, deviation = (
                    float(entry(plans, folder / PLANS, *place, key))
                    for key in ("percentile_00_5", "percentile_99_5", "mean", "std")
                )
                chains.append(f"clip:{low!r}:{high!r},normalize:{mean!r}:{max(deviation, 1e-8)!r}")
            case "ZScoreNormalization":
                chains.append("zscore:nonzero" if mask else "zscore")
                where = "its mask of the body, zeros inside filled" if mask else "the box around what is not zero"
                here = "voxels that are not zero" if mask else "the whole scan"
                assumptions.append(f"channel {channel} is measured on {here}; by nnU-Net on {where}")
            case "NoNormalization":
                chains.append("none")
            case "RescaleTo01Normalization":
                chains.append("minmax")
            case "RGBTo01Normalization":
                chains.append("map:0:255:0:1")
            case _:
                raise InputError(
                    f"the normalization {scheme!r} of channel {channel}",
                    expected="CTNormalization, ZScoreNormalization, RescaleTo01Normalization, RGBTo01Normalization or "
                    "NoNormalization",
                    hint="export the checkpoint with --network package.module:build and --intensity",
                )
    return chains[0] if len(set(chains)) == 1 else ";".join(chains), assumptions


def _module(plan: Mapping[str, Any], folder: Path, spec: ModelSpec) -> nn.Module:
    """The network as its plans describe it, built by the library that nnU-Net uses."""
    if "architecture" not in plan:
        raise InputError(
            f"the plans of {folder.name} name no class of their network: they are older than nnU-Net 2.3",
            expected="architecture.network_class_name",
            hint="plan and train with a newer nnU-Net, or --network package.module:build with its checkpoint",
        )
    name = str(entry(plan, folder / PLANS, "architecture", "network_class_name"))
    package, _, kind = name.rpartition(".")
    if package.split(".")[0] != _BUILDER:
        raise InputError(
            f"the network {name} of {folder.name}",
            expected=f"one of {_BUILDER}: no other code is run",
            hint="--network package.module:build with its checkpoint, for a network of your own code",
        )
    if find_spec(_BUILDER) is None:
        raise MissingDependency(
            f"{_BUILDER} is not installed, which builds the network {kind}",
            expected="nnU-Net's own library of networks",
            hint="pip install dynamic-network-architectures",
        )
    settings = dict(entry(plan, folder / PLANS, "architecture", "arch_kwargs"))
    for key in plan["architecture"].get("_kw_requires_import", ()):
        if settings.get(key) is not None:
            settings[key] = _torch_class(str(settings[key]), folder)
    settings["deep_supervision"] = False
    try:
        module: nn.Module = getattr(import_module(package), kind)(
            input_channels=spec.in_channels, num_classes=spec.outputs, **settings
        )
    except ImportError as error:
        raise MissingDependency(
            f"{package} cannot be imported: {error}",
            expected="what it needs beside it",
            hint="pip install dynamic-network-architectures",
        ) from error
    except (AttributeError, TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        raise CheckpointError(
            f"{name} cannot be built as the plans of {folder.name} say: {error}",
            expected="settings that it takes",
            hint="install the version of dynamic-network-architectures that it was trained with",
        ) from error
    return module.eval()


def _torch_class(name: str, folder: Path) -> type[nn.Module]:
    """A class of torch.nn by its dotted name; raises InputError for anything else."""
    package, _, kind = name.rpartition(".")
    found = getattr(import_module(package), kind, None) if package.split(".")[:2] == ["torch", "nn"] else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(
            f"the plans of {folder.name} ask for {name}", expected="a module of torch.nn", hint="look at the plans"
        )
    return found
