"""The images, the trial and the service, as far as they can be held without a daemon: linters, schemas, locks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.serving.python_model import check_numpy
from tests.support import ROOT
from tests.support.floors import normalised

CONTAINERS = ROOT / "containers"
DOCKERFILES = sorted(CONTAINERS.glob("Dockerfile.*"))
NODES = [path for path in DOCKERFILES if path.suffix != ".triton"]
LOCKS = sorted(CONTAINERS.glob("*.lock"))
OF_ITS_OWN = {"onnxruntime-gpu"}  # it writes over onnxruntime, so the lock of development has the other one
MAX_EXPOSURE = 2.0  # of 10, by systemd-analyze security


def tool(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A tool of the extra dev."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        pytest.skip(f"{name} is not installed: make test")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)


def pins(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> its version and the hashes of its files."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line):
            found[normalised(match[1])] = (match[2], frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)))
    return found


def extras(dockerfile: Path) -> list[str]:
    """What an image installs by default."""
    [line] = re.findall(r"^ARG EXTRAS=(\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    return line.split(",")


def test_there_is_an_image_for_each_kind_of_box() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".cpu", ".cuda", ".l4t", ".triton"]
    assert [path.name for path in LOCKS] == ["cpu.lock", "cuda.lock"]


@pytest.mark.parametrize("dockerfile", NODES, ids=lambda path: path.suffix[1:])
def test_an_image_installs_by_the_script_runs_as_nobody_and_asks_the_node_whether_it_is_ready(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    last = text.rpartition("FROM ")[2]
    assert '/src/containers/install.sh /opt/medattn "$EXTRAS" ' in text
    [user] = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) > 1000
    assert "\nVOLUME /data\n" in last
    assert "\nSTOPSIGNAL SIGTERM\n" in last
    assert re.search(r'^HEALTHCHECK .*\\\n +CMD \["medattn-edge", "node", "status", .*"--ready"', last, re.MULTILINE)
    assert last.rstrip().endswith('ENTRYPOINT ["medattn-edge"]\nCMD ["node", "--config", "/data/node.toml"]')


def test_the_image_of_a_server_has_numpy_1_runs_as_nobody_and_is_asked_for_a_real_run() -> None:
    text = (CONTAINERS / "Dockerfile.triton").read_text(encoding="utf-8")
    [numpy] = re.findall(r'"numpy==([\d.]+)"', text)
    check_numpy(numpy)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*\\\n +CMD \["medattn-edge", "serve", "check", "/models"', text, re.MULTILINE)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    done = tool("hadolint", *DOCKERFILES)
    assert done.returncode == 0, done.stdout + done.stderr
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILES[0].read_text(encoding="utf-8").replace("USER 10001:10001", "USER root"))
    assert tool("hadolint", worse).returncode == 1


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_an_image_has_the_versions_and_files_that_were_tested_together(lock: Path) -> None:
    tested = pins(ROOT / "requirements.lock")
    ours = {name: pin for name, pin in pins(lock).items() if name not in OF_ITS_OWN}
    assert len(ours) > 20
    assert ours == {name: tested[name] for name in ours}, "make lock"
    assert all(hashes for _, hashes in pins(lock).values())
    assert "torch" not in ours


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_has_all_that_its_images_extras_ask_for(lock: Path) -> None:
    from packaging.requirements import Requirement

    have, missing = pins(lock).keys(), []
    todo = [Requirement(f"medattn-edge[{','.join(extras(lock.with_name(f'Dockerfile.{lock.stem}')))}]")]
    seen = set()
    while todo:
        one = todo.pop()
        name, wanted = normalised(one.name), sorted(one.extras) or [""]
        if (name, *wanted) in seen:
            continue
        seen.add((name, *wanted))
        if name in OF_ITS_OWN:
            continue
        if name != "medattn-edge" and name not in have:
            missing.append(name)
            continue
        needs = map(Requirement, requires(name) or ())
        todo += [
            need
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in wanted)
        ]
    assert len(seen) > 20
    assert missing == [], "make lock"


@pytest.mark.slow
def test_the_trial_follows_the_schema_of_compose(tmp_path: Path) -> None:
    words = ("--builtin-schema", "vendor.compose-spec")
    done = tool("check-jsonschema", *words, CONTAINERS / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    worse = tmp_path / "compose.yaml"
    worse.write_text((CONTAINERS / "compose.yaml").read_text(encoding="utf-8").replace("init: true", "inti: true"))
    assert tool("check-jsonschema", *words, worse).returncode == 1


def test_the_job_is_what_kubernetes_takes(tmp_path: Path) -> None:
    job = CONTAINERS / "kubernetes" / "cohort-job.yaml"
    done = tool("kubernetes-validate", "--strict", job)
    assert done.returncode == 0, done.stdout + done.stderr
    for right, wrong in (("completionMode", "completionsMode"), ("completions: 8", "completions: many")):
        worse = tmp_path / "job.yaml"
        worse.write_text(job.read_text(encoding="utf-8").replace(right, wrong))
        assert tool("kubernetes-validate", "--strict", worse).returncode == 1, wrong


def test_the_server_is_what_kubernetes_takes_and_lives_by_a_real_run(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="the extra docs is not installed")
    served = CONTAINERS / "kubernetes" / "triton.yaml"
    done = tool("kubernetes-validate", "--strict", served)
    assert done.returncode == 0, done.stdout + done.stderr
    for right, wrong in (
        ("livenessProbe", "livelinessProbe"),
        ("replicas: 1", "replicas: one"),
        ("port: 8001", "prt: 1"),
    ):
        worse = tmp_path / "triton.yaml"
        worse.write_text(served.read_text(encoding="utf-8").replace(right, wrong))
        assert tool("kubernetes-validate", "--strict", worse).returncode == 1, wrong
    deployment, service = yaml.safe_load_all(served.read_text(encoding="utf-8"))
    template = deployment["spec"]["template"]
    [container] = template["spec"]["containers"]
    assert (
        service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    )
    for probe in ("startupProbe", "livenessProbe"):
        words = container[probe]["exec"]["command"]
        parsed = _parsed(words)
        assert parsed["path"] == Path("/models")
        assert parsed["timeout"] < container[probe]["timeoutSeconds"]


def _parsed(words: list[str]) -> dict[str, Any]:
    """The options of a command of ours, as it would read them; it is not run."""
    from typer.main import get_command

    from medattn_edge.cli import app

    assert words[:3] == ["medattn-edge", "serve", "check"]
    group = get_command(app).get_command(None, "serve")  # type: ignore[attr-defined, arg-type]
    return dict(group.get_command(None, "check").make_context("check", words[3:]).params)


def test_the_shares_of_the_job_are_the_whole_list_and_none_is_done_twice(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="the extra docs is not installed")
    job = yaml.safe_load((CONTAINERS / "kubernetes" / "cohort-job.yaml").read_text(encoding="utf-8"))["spec"]
    [container] = job["template"]["spec"]["containers"]
    [script] = container["args"]
    shares = int({one["name"]: one["value"] for one in container["env"]}["SHARES"])
    assert shares == job["completions"]
    for count in (0, 1, 7, 8, 9, 100):
        lines = [f"/data/scans/{number}.nii.gz,case{number}" for number in range(count)]
        (tmp_path / "list.csv").write_text("\n".join(["scan,case", *lines]) + "\n")
        found = []
        for index in range(shares):
            cut = (
                script.partition("exec ")[0]
                .replace("/data/", f"{tmp_path}/")
                .replace("/tmp/share", f"{tmp_path}/share")
            )
            environment = {"PATH": "/usr/bin:/bin", "SHARES": str(shares), "JOB_COMPLETION_INDEX": str(index)}
            subprocess.run([*container["command"], cut], check=True, env=environment)
            head, *share = (tmp_path / "share.csv").read_text().splitlines()
            assert head == "scan,case"
            assert abs(len(share) - count / shares) < 1
            found += share
        assert sorted(found) == sorted(lines)


def test_what_the_trial_mounts_is_there_or_made_by_its_user() -> None:
    text = (CONTAINERS / "compose.yaml").read_text(encoding="utf-8")
    mounted = re.findall(r"- \./(trial/[\w.]+):", text)
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"trial/node.toml", "trial/orthanc.json"} <= set(mounted)
    for name in mounted:
        assert (CONTAINERS / name).is_file() or f"containers/{name}/" in ignored, name


def test_the_service_is_what_systemd_takes_and_has_few_rights(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("apt-get install systemd")
    text = (CONTAINERS / "medattn-edge.service").read_text(encoding="utf-8")
    unit = tmp_path / "medattn-edge.service"
    unit.write_text(text.replace("/opt/medattn/bin/medattn-edge", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    [exposure] = re.findall(r"Overall exposure level .*: ([\d.]+)", done.stdout)
    assert float(exposure) <= MAX_EXPOSURE, done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["only-one"], "found 1 arguments"),
        ([ROOT, ""], "expected a new folder"),
        (["new", "node", "missing.lock"], "found no file missing.lock"),
    ],
)
def test_the_script_says_what_it_wants_and_makes_nothing(words: list[object], said: str, tmp_path: Path) -> None:
    script = CONTAINERS / "install.sh"
    done = subprocess.run([script, *map(str, words)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "; try: " in done.stderr
    assert list(tmp_path.iterdir()) == []
