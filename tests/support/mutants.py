"""One-line faults in a copy of the tree, and whether a test notices: `make mutants`, configured by tests/mutants.toml.

`python -m tests.support.mutants [--count N] [--minutes M] [--seed S] [--jobs J] [--only PATTERN]`

Cosmic Ray says what can be changed and changes it. The sample, the copies and the tests of each module are ours: its
own runner changes the working tree in place and runs one command for all modules.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator

from medattn_edge.newer_python import tomllib
from tests.support import ROOT

CONFIG = ROOT / "tests" / "mutants.toml"
PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow and not gpu")
# By pytest's exit code, None after the limit; 1: a test failed, 2: the module cannot even be imported.
_OUTCOMES = {0: "survived", 1: "killed", 2: "killed", 4: "killed", None: "timeout"}


_TEST = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::[^\[\s]+(?:\[.*?\](?= - |$))?)?)", re.MULTILINE)


class DropCall(Operator):  # type: ignore[misc]
    """A call whose answer nobody uses is left out: a dropped fsync, close, check or append."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where `node` is such a call."""
        if node.type == "simple_stmt" and node.children[0].type in ("atom_expr", "power"):
            call = node.children[0]
            if call.children[-1].type == "trailer" and call.children[-1].children[0].value == "(":
                yield call.start_pos, call.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """`pass` in its place."""
        del index
        nothing: Any = parso.parse("pass").children[0]  # type: ignore[no-untyped-call]
        nothing.prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = nothing
        nothing.parent = node
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """For Cosmic Ray's own tests of operators."""
        return (Example("x = f()\nos.fsync(x)\n", "x = f()\npass\n"),)


@dataclass(frozen=True, order=True)
class Mutant:
    """One change: the `occurrence`-th place in the module where the operator fits."""

    module: str
    line: int
    operator: str
    occurrence: int

    def code(self, source: str) -> str:
        """The changed source."""
        return str(mutate_code(source, operator_named(self.operator)(), self.occurrence))


@dataclass
class Results:
    """What came out so far, shared by the workers."""

    outcomes: list[tuple[Mutant, str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, mutant: Mutant, outcome: str, change: str) -> None:
        """Record one and print it: killed, timeout, survived or invalid."""
        with self.lock:
            self.outcomes.append((mutant, outcome, change))
            print_line(f"{len(self.outcomes):4} {outcome:9} {mutant.module}:{mutant.line} {mutant.operator}: {change}")


def print_line(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def operator_named(name: str) -> Any:
    """The class of an operator."""
    return DropCall if name == "DropCall" else cosmic_ray.plugins.get_operator(name)


def mutants_of(module: str, operators: Sequence[str], skip: str, root: Path = ROOT) -> list[Mutant]:
    """Every change of one module, in a fixed order, but for those in lines that match `skip`."""
    source = (root / module).read_text(encoding="utf-8")
    nodes, lines, found = list(ast_nodes(get_ast(source))), source.splitlines(), list[Mutant]()
    for name in operators:
        operator = operator_named(name)()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        found += [Mutant(module, start[0], name, number) for number, start in enumerate(places)]
    return sorted(one for one in found if re.search(skip, lines[one.line - 1]) is None)


def tests_of(module: str, table: dict[str, list[str]]) -> tuple[str, ...]:
    """The test files that have to notice a change of the module: the one of its name, then the table's, each once."""
    room, stem = Path(module).relative_to("medattn_edge").parent, Path(module).stem
    patterns = [f"tests/{one}/test_{stem}.py" for one in (room, Path(*room.parts[:1]))]
    patterns += [test for pattern, tests in table.items() if _matches(module, pattern) for test in tests]
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return tuple(dict.fromkeys(str(path.relative_to(ROOT)) for path in files))


def _matches(module: str, pattern: str) -> bool:
    if "**/" in pattern:
        return fnmatch(module, pattern) or fnmatch(module, pattern.replace("**/", ""))
    return fnmatch(module, pattern) and module.count("/") == pattern.count("/")


class Copy:
    """A copy of the tracked files, which is changed instead of the working tree.

    Args:
        folder: an empty one.
        timeout_s: after which the tests of one mutant are ended: it is noticed.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.root, self._timeout_s = folder, timeout_s
        self._sound, self._broken = set[str](), list[str]()
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def judge(self, mutant: Mutant, tests: Sequence[str]) -> tuple[str, str]:
        """What the tests say of a mutant, and the changed line with the test that noticed."""
        path = self.root / mutant.module
        source = path.read_text(encoding="utf-8")
        changed = mutant.code(source)
        difference = _difference(source, changed)
        try:
            compile(changed, mutant.module, "exec")
        except SyntaxError:
            return "invalid", difference
        while True:
            _put(path, changed)
            try:
                code, output = self._run((*tests, *(f"--deselect={name}" for name in self._broken)))
            finally:
                _put(path, source)
            noticed = failed_tests(output)[:1]
            if noticed and noticed[0] in self._broken:  # it could not be left out
                return "invalid", difference
            if code != 1 or not noticed or self._passes_unchanged(noticed[0]):
                return _OUTCOMES.get(code, "invalid"), "".join((difference, *(f" <- {name}" for name in noticed)))

    def _passes_unchanged(self, test: str) -> bool:
        """Whether a test that failed passes on the unchanged tree; one that does not is asked no more."""
        if test not in self._sound:
            code, _ = self._run((test,) if "::" in test else (test, "--collect-only"))
            if code != 0:
                print_line(f"counts for nothing, since it fails without any change: {test}")
                self._broken.append(test)
                return False
            self._sound.add(test)
        return True

    def _run(self, arguments: Sequence[str]) -> tuple[int | None, str]:
        """The exit code of pytest, None after the time limit, and its output; nothing that it started lives on."""
        settings = {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *PYTEST, *arguments],
            cwd=self.root,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode, output


def _put(path: Path, source: str) -> None:
    """Write a module without what was compiled of it: two changes of one second and of one size would share that."""
    path.write_text(source, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def failed_tests(output: str) -> list[str]:
    """The names of failed tests, from pytest's summary."""
    # Captured logs may have lines that begin alike.
    _, _, lines = output.rpartition("short test summary info")
    return [match[1] for match in _TEST.finditer(lines)]


def _difference(source: str, changed: str) -> str:
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    before, after = next(((one.strip(), two.strip()) for one, two in pairs if one != two), ("", ""))
    return f"{before}  ->  {after}"


def sample(config: dict[str, Any], seed: int, only: str) -> list[Mutant]:
    """All mutants in the order of the seed."""
    paths = {path for pattern in config["modules"] for path in ROOT.glob(pattern)}
    modules = [name for name in sorted(str(path.relative_to(ROOT)) for path in paths) if fnmatch(name, only or "*")]
    mutants = [one for module in modules for one in mutants_of(module, config["operators"], config["skip"])]
    random.Random(seed).shuffle(mutants)
    return mutants


def judge_all(mutants: Sequence[Mutant], config: dict[str, Any], until: float, results: Results) -> None:
    """Judge mutants, one copy of the tree per job, until the time is over."""
    tests = {one.module: tests_of(one.module, config["tests"]) for one in mutants}
    queue = iter(mutants)

    def work(copy: Copy) -> None:
        while time.monotonic() < until:
            with results.lock:
                mutant = next(queue, None)
            if mutant is None:
                return
            results.add(mutant, *copy.judge(mutant, tests[mutant.module]))

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Copy(Path(folder) / str(number), config["timeout_s"]) for number in range(config["jobs"])]
        with ThreadPoolExecutor(len(copies)) as pool:
            list(pool.map(work, copies))


def summary(results: Results, seed: int, total: int, seconds: float) -> dict[str, Any]:
    """The score: noticed of the valid ones, and what survived."""
    counts = dict.fromkeys(("killed", "timeout", "survived", "invalid"), 0)
    for _, outcome, _ in results.outcomes:
        counts[outcome] += 1
    noticed, valid = counts["killed"] + counts["timeout"], sum(counts.values()) - counts["invalid"]
    survivors = [
        {"module": one.module, "line": one.line, "operator": one.operator, "change": change}
        for one, outcome, change in sorted(results.outcomes)
        if outcome == "survived"
    ]
    score = round(100 * noticed / valid, 1) if valid else None
    return {"seed": seed, "of": total, **counts, "score": score, "seconds": round(seconds), "survivors": survivors}


def main() -> None:
    """Sample, judge, print."""
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="this many mutants instead of a time")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first of the sample")
    for name, kind in (("minutes", float), ("seed", int), ("jobs", int)):
        parser.add_argument(f"--{name}", type=kind, default=config[name])
    parser.add_argument("--only", default="", help="modules that match, like 'medattn_edge/io/*'")
    parser.add_argument("--json", type=Path, help="write the summary here, too")
    options = parser.parse_args()
    config |= {"jobs": options.jobs}
    mutants = sample(config, options.seed, options.only)
    chosen = mutants[options.skip :][: options.count]
    until = time.monotonic() + (options.minutes * 60 if options.count is None else float("inf"))
    start, results = time.monotonic(), Results()
    judge_all(chosen, config, until, results)
    text = json.dumps(summary(results, options.seed, len(mutants), time.monotonic() - start), indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print_line(text)


if __name__ == "__main__":
    main()
