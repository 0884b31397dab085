"""`python -m tests.corpus DIR...`: every scan below the folders through the product and through other readers.

`make corpus DIR=...` is the same. Without a folder it takes the test files of installed packages, which is what
`python -m tests.corpus > tests/corpus/table.md` writes anew.

Exit code 0 when nothing crashed and nothing differs, 1 otherwise, 2 for a folder that is not there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from medattn_edge.process import Child, ChildLost
from tests.corpus.find import Candidate, find
from tests.corpus.table import Verdict, document, markdown
from tests.support.networks import export_checkpoint, gated_spec, save_checkpoint

PACKAGES = ("pydicom", "nibabel", "highdicom", "pynetdicom", "slicerio")
PATCH = (64, 64)
TIMEOUT_S = 600.0  # of one scan


def judge(roots: Sequence[Path], network: Path) -> Iterator[Verdict]:
    """The verdict on every candidate below some folders, in a process that may crash."""
    child: Child | None = None
    for root in roots:
        for one in find(root):
            if one.reason:
                yield Verdict(root.name, one.name, one.format, "refused", one.reason, one.detail)
                continue
            child = child if child is not None and child.alive else Child("tests.corpus.judge")
            yield _judged(child, root.name, one, network)
    if child is not None:
        child.close()


def make_network(folder: Path) -> Path:
    """An artifact with random weights, which has no opinion of any scan."""
    spec = gated_spec(PATCH)
    export_checkpoint(save_checkpoint(folder / "random.safetensors", spec, balanced=True), folder / "random.onnx")
    return folder / "random.onnx"


def _judged(child: Child, corpus: str, one: Candidate, network: Path) -> Verdict:
    request = {"do": "judge", "path": str(one.path), "format": one.format, "network": str(network)}
    request |= {"files": [*map(str, one.files)], "every_file": [*map(str, one.every_file)]}  # type: ignore[dict-item]
    try:
        reply, _ = child.ask(request, timeout_s=TIMEOUT_S)
    except (ChildLost, RuntimeError) as error:
        last = str(error).strip().splitlines()[-1]
        return Verdict(corpus, one.name, one.format, "crashed", "", last)
    return Verdict(corpus, one.name, one.format, reply["verdict"], reply["reason"], reply["detail"])


def packages() -> list[Path]:
    """The folders of the installed packages whose own test files are scans; highdicom's wheel has none."""
    found = [find_spec(name) for name in PACKAGES]
    return [Path(spec.origin).parent for spec in found if spec is not None and spec.origin is not None]


def main() -> int:
    """Judge the folders and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="none: the test files of some packages")
    parser.add_argument("--network", type=Path, help="an artifact of one channel; without, one with random weights")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args()
    missing = [folder for folder in given.folders if not folder.is_dir()]
    if missing:
        sys.stderr.write(f"{missing[0]} is not a directory; next: make corpus DIR=FOLDER\n")
        return 2
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        roots = [folder.resolve() for folder in given.folders] or packages()
        for verdict in judge(roots, given.network or make_network(Path(folder))):
            sys.stderr.write(f"{verdict.verdict:10}{verdict.format:10}{verdict.scan}\n")
            verdicts.append(verdict)
    sys.stdout.write(json.dumps(document(verdicts), indent=2) + "\n" if given.json else markdown(verdicts))
    return int(any(verdict.verdict in ("crashed", "different") for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
