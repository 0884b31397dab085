"""release: artifacts that are signed for: write, keygen, sign, verify, show, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge.errors import quoted

from . import console
from .options import DeviceOption, ResampleOption, ThreadsOption, scans_of
from .released import Trusted, in_words, keys_of, next_step

if TYPE_CHECKING:
    from medattn_edge.release import VerifiedRelease

Option = typer.Option
Place = Annotated[Path, typer.Argument(metavar="RELEASE", help="The folder or the .zip that `release write` made.")]
Json = Annotated[bool, Option("--json", help="One JSON document on stdout.")]

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    help="Artifacts in one folder or .zip that is checked as a whole, signed, and opened like an artifact.",
)


@app.command("write", no_args_is_help=True)
def write(
    artifacts: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT...", help="What export, calibrate and compile wrote.")
    ],
    output: Annotated[Path, Option("--output", "-o", metavar="DIR|FILE.zip", help="Nothing may be there yet.")],
    name: Annotated[
        str, Option("--name", help="Of the release, the same for all its versions; by default the default artifact's.")
    ] = "",
    release_version: Annotated[
        int, Option("--release-version", min=1, metavar="N", help="Larger than that of the release before.")
    ] = 1,
    default: Annotated[
        str, Option("--default", metavar="NAME", help="The artifact that is opened where none is named; the first.")
    ] = "",
    report: Annotated[
        list[Path] | None,
        Option("--report", metavar="DIR|FILE", help="What `report` wrote: its folder, or FILE.html and FILE.json."),
    ] = None,
    json: Json = False,
) -> None:
    """Write artifacts with their manifests and companions, a manifest of all, and a CycloneDX bill of materials.

    The same artifacts give the same bytes. SOURCE_DATE_EPOCH in the environment adds a time; without it there is none.
    """
    from medattn_edge.release import write_release

    release = write_release(artifacts, output, name=name, version=release_version, default=default, report=report or ())
    _tell(release, json)
    manifest = release.manifest
    if not name:
        console.note(f"assumed: the name {manifest.name}; --name gives another")
    if not default and len(artifacts) > 1:
        console.note(f"assumed: the default {manifest.default}; --default gives another")
    console.note(f"next: medattn-edge release sign {quoted(output)} --key KEY")


@app.command("keygen", no_args_is_help=True)
def keygen(
    output: Annotated[
        Path, Option("--output", "-o", metavar="KEY", help="The private key, mode 0600; KEY.pub is written beside it.")
    ],
    signer: Annotated[
        str, Option("--signer", metavar="NAME", help="What KEY.pub calls its owner; by default the file's name.")
    ] = "",
    json: Json = False,
) -> None:
    """Make an Ed25519 key to sign releases with. It has no password and cannot be made again: keep it offline."""
    from medattn_edge.release import generate_key

    key = generate_key(output, signer)
    public = output.with_name(output.name + ".pub")
    if json:
        console.print_json(
            {"key": str(output), "public": str(public), "signer": key.signer, "fingerprint": key.fingerprint}
        )
        return
    console.say(f"{output}: the private key; whoever has it can sign for {key.signer}")
    console.say(f"{public}: for whoever verifies; fingerprint {key.fingerprint}")


@app.command("sign", no_args_is_help=True)
def sign(
    path: Place,
    key: Annotated[Path, Option("--key", metavar="KEY", help="The private key that `release keygen` wrote.")],
    json: Json = False,
) -> None:
    """Check a release and sign its manifest, and so every byte of it; a signature that is there is replaced."""
    from medattn_edge.release import load_private_key, sign_release

    _tell(sign_release(path, load_private_key(key)), json)


@app.command("verify", no_args_is_help=True)
def verify(
    path: Place,
    trusted: Annotated[
        Path, Option("--trusted", metavar="FILE", help="KEY.pub, or several in one file, each below its name.")
    ],
    json: Json = False,
) -> None:
    """Check every byte of a release and who signed it; exit 5 unless a trusted key did. Nothing in it is opened."""
    from medattn_edge.release import verify as verified

    _tell(verified(path, keys_of(trusted)), json)


@app.command("show", no_args_is_help=True)
def show(path: Place, trusted: Trusted = None, json: Json = False) -> None:
    """Print what a release holds: artifacts, lineage, thresholds and files. Every byte is checked first."""
    from medattn_edge.release import verify as verified

    release = verified(path, keys_of(trusted))
    _tell(release, json)
    if json:
        return
    for name, values in sorted(release.manifest.artifacts.items()):
        console.say(f"{name}: {values['network']}, {values['precision']}")
        for step in values["lineage"]:
            console.say(f"  {step['sha256'][:16]}...  {step['file'] or step['made']}")
        for one in values["thresholds"]:
            limits = ", ".join(f"{key} {value:g}" for key, value in one["limits"].items())
            console.say(f"  held to {limits or 'finite logits'} on {one['inputs']} inputs")
        if values["calibration"]:
            console.say(f"  calibrated on windows {values['calibration']['windows_sha256'][:16]}...")
        for tool, version in values["tools"].items():
            console.say(f"  made with {tool} {version}")
    _show_files(release)


@app.command("diff", no_args_is_help=True)
def diff(  # noqa: PLR0913
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A release, or RELEASE#ARTIFACT.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A release, or RELEASE#ARTIFACT.")],
    scans: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="Several channels as T1+T2+...")],
    min_dice: Annotated[
        float | None,
        Option("--min-dice", min=0, max=1, help="Exit 1 when a label's Dice between the two is below."),
    ] = None,
    time: Annotated[bool, Option("--time", help="Also time one run of each, in turn.")] = False,
    duration: Annotated[float, Option("--duration", min=0, help="Of --time, in s for each.")] = 5.0,
    threads: ThreadsOption = 0,
    device: DeviceOption = "auto",
    resample_to_first: ResampleOption = False,
    trusted: Trusted = None,
    json: Json = False,
) -> None:
    """What changes with a release: labels and volumes of scans, versions, thresholds, files; latency with --time."""
    from medattn_edge.evaluation.release_diff import DiffSettings, diff_releases

    from .release_text import tell_diff

    settings = DiffSettings(min_dice=min_dice, time=time, duration_s=duration, threads=threads, device=device)
    with console.stages() as progress:
        found = diff_releases(
            old,
            new,
            scans_of(scans, resample_to_first),
            trusted=keys_of(trusted),
            settings=settings,
            progress=progress,
        )
    document = found.to_json()
    if json:
        console.print_json(document)
    else:
        tell_diff(document)
    if not found.passed:
        raise typer.Exit(1)


def _tell(release: VerifiedRelease, json: bool) -> None:
    if json:
        console.print_json(release.to_json())
        return
    console.say(f"{release.path}: {in_words(release)}")
    console.say(f"{len(release.manifest.files)} files whole; default {release.manifest.default}")
    console.say(f"release.json: SHA-256 {release.manifest_sha256}")
    if release.signer is not None:
        console.say(f"key: {release.signer.fingerprint}")
    elif release.signed:
        console.note(f"next: {next_step(release.path)}")


def _show_files(release: VerifiedRelease) -> None:
    from rich.table import Table

    table = Table("file", "bytes", "SHA-256")
    for name, one in sorted(release.manifest.files.items()):
        table.add_row(name, f"{one.bytes:,}", one.sha256)
    console.show(table)
