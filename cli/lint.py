"""lint: whether a runtime computes an ONNX graph as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medattn_edge.errors import InputError
from medattn_edge.nearby import missing

from . import console
from .released import Trusted, opened

if TYPE_CHECKING:
    from medattn_edge.precision.lint.rules import Finding


def command(
    path: Annotated[
        Path,
        typer.Argument(metavar="NET.onnx", help="Any ONNX file, with a manifest or without; or RELEASE#NET.onnx."),
    ],
    profile: Annotated[
        Literal["cpu", "tensorrt", "tensorrt-rtx"],
        typer.Option(
            help="Rules of ONNX Runtime and OpenVINO (cpu), of TensorRT 10 and 11 (tensorrt), or of TensorRT for RTX."
        ),
    ],
    isa: Annotated[
        Literal["x86-vnni", "x86", "arm"] | None,
        typer.Option(help="The CPU that will run it, for --profile cpu; by default this host's."),
    ] = None,
    trusted: Trusted = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Hold an FP32, FP16 or INT8 graph to the rules of a runtime; exit 1 when it breaks one."""
    from medattn_edge.host import hardware
    from medattn_edge.precision.lint.rules import lint

    with opened([path], trusted) as models:
        findings = lint(_read(models.files[0]), profile, isa or hardware.isa_class(hardware.cpu()))
    failed = any(finding.severity == "error" for finding in findings)
    if json:
        console.print_json(
            {
                "artifact": str(path),
                "profile": profile,
                "verdict": "fail" if failed else "pass",
                "findings": [_document(finding) for finding in findings],
            }
        )
    else:
        _show(path, profile, findings)
    raise typer.Exit(1 if failed else 0)


def _read(path: Path) -> Any:
    """The model of anyone's file; raises InputError for what is no valid ONNX, MissingDependency without onnx."""
    from importlib.util import find_spec

    from medattn_edge.errors import MissingDependency

    if find_spec("onnx") is None:
        raise MissingDependency.of_extra("onnx", "export")
    import onnx

    hint = "medattn-edge export CHECKPOINT -o NAME.onnx"
    if not path.is_file():
        raise missing(path, "an ONNX file", otherwise=hint)
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and onnx's own, which differ between versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.name} cannot be read as ONNX: {first}", expected="a valid model", hint=hint) from error
    return model


def _document(finding: Finding) -> dict[str, str]:
    names = ("rule", "severity", "node", "module", "reason", "remedy")
    return {name: getattr(finding, name) for name in names}


def _show(path: Path, profile: str, findings: tuple[Finding, ...]) -> None:
    from rich.table import Table

    errors = sum(finding.severity == "error" for finding in findings)
    if findings:
        heads = ("rule", "severity", "node", "module", "reason", "remedy")
        table = Table(*heads, title=f"{path} against the {profile} rules")
        for finding in findings:
            table.add_row(*_document(finding).values())
        console.show(table)
    verdict = "FAIL" if errors else "PASS"
    console.say(f"{verdict}: {errors} errors, {len(findings) - errors} warnings against the {profile} rules")
