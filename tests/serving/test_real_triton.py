"""Against Triton itself: the same bits as on this host, and every fault of a server that a hospital will see."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra triton is not installed")
pytest.importorskip("tritonclient", reason="the extra triton is not installed")

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends import open_session
from medattn_edge.backends.triton.remote_model import RemoteModel, write_remote_model
from medattn_edge.backends.triton.server import Server
from medattn_edge.data import shipped_artifact
from medattn_edge.data.samples import sample_scan
from medattn_edge.errors import BackendError, IntegrityError
from medattn_edge.exporters import random_patches
from medattn_edge.inference.sliding_window import slabs
from medattn_edge.serving import check_served, write_repository
from tests.support.dicom_peers import Archive, free_port, send
from tests.support.networks import with_other_weights
from tests.support.real_triton import RealTriton, needs_triton
from tests.support.running_node import RunningNode, Scan, command, tiny_model

pytestmark = [pytest.mark.slow, needs_triton]
RESTART_S = 5.0  # within which a server that is started again costs no scan


def written(artifact: Path, folder: Path, port: int, **settings) -> Path:
    """A repository of one artifact; its NAME.triton."""
    [served] = write_repository([artifact], folder / "repository", address=f"127.0.0.1:{port}", threads=1, **settings)
    return served.file


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of a small network, and its NAME.triton."""
    folder, port = tmp_path_factory.mktemp("triton"), free_port()
    file = written(tiny_model(), folder, port)
    with RealTriton(folder / "repository", folder, port) as server:
        yield server, file


@pytest.fixture
def own(tmp_path):
    """The same, for a test that ends the server."""
    port = free_port()
    file = written(tiny_model(), tmp_path, port)
    with RealTriton(tmp_path / "repository", tmp_path, port) as server:
        yield server, file


def image(spec, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((spec.in_channels, 24, 90, 90), dtype=np.float32)


def test_logits_and_canary_are_the_local_bits(served):
    _, file = served
    with open_session(file) as remote, open_session(tiny_model(), threads=1) as local:
        patches = random_patches(local.spec, 3, seed=5)
        np.testing.assert_array_equal(remote.run(patches), local.run(patches))
        found, expected = (
            np.concatenate([slab.logits for slab in slabs(one, image(local.spec))], axis=1) for one in (remote, local)
        )
    np.testing.assert_array_equal(found, expected)
    assert check_served(file).identical


def test_shared_memory_gives_the_same_bits_also_after_the_server_was_started_again(tmp_path):
    port = free_port()
    file = written(tiny_model(), tmp_path, port, shared_memory=True)
    before = shared_regions()
    with (
        RealTriton(file.parent, tmp_path, port) as server,
        open_session(tiny_model(), threads=1) as local,
        open_session(file) as remote,
    ):
        for count in (3, 1):  # another size is another region
            patches = random_patches(local.spec, count, seed=count)
            np.testing.assert_array_equal(remote.run(patches), local.run(patches))
        found, expected = (
            np.concatenate([slab.logits for slab in slabs(one, image(local.spec))], axis=1) for one in (remote, local)
        )
        np.testing.assert_array_equal(found, expected)
        assert shared_regions() - before
        server.kill()
        server.start()
        np.testing.assert_array_equal(remote.run(patches), local.run(patches))
    assert shared_regions() == before


def test_shared_memory_of_a_request_that_ran_out_of_time_is_used_by_no_other(tmp_path):
    port = free_port()
    file = written(tiny_model(), tmp_path, port, shared_memory=True)
    slow = write_remote_model(
        Artifact.read(tiny_model()), tmp_path / "slow.triton", replace(RemoteModel.read(file), timeout_s=0.5)
    ).path
    before = shared_regions()
    with RealTriton(file.parent, tmp_path, port), open_session(slow) as remote:
        patches = random_patches(remote.spec, 6000, seed=1)
        with pytest.raises(BackendError, match="DEADLINE_EXCEEDED"):
            remote.run(patches)
        assert shared_regions() == before


def shared_regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("medattn-edge-*")}


def test_a_whole_ct_has_the_labels_and_probabilities_of_this_host(tmp_path):
    artifact, port = shipped_artifact(), free_port()
    file = written(artifact, tmp_path, port)
    with RealTriton(tmp_path / "repository", tmp_path, port):
        for name, source in (("remote", file), ("local", artifact)):
            outputs = ("-o", tmp_path / f"{name}.nii.gz", "--probabilities", tmp_path / f"{name}-p.nii.gz")
            done = command("infer", source, sample_scan(), *outputs, "--threads", "1")
            assert done.returncode == 0, done.stderr
    for name in ("", "-p"):
        remote, local = (
            np.asanyarray(nibabel.load(tmp_path / f"{host}{name}.nii.gz").dataobj) for host in ("remote", "local")
        )
        assert local.any()
        np.testing.assert_array_equal(remote, local)


def test_a_cohort_and_a_comparison_take_it_like_an_artifact(served, tmp_path):
    _, file = served
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(sample_scan(), scans / "chest.nrrd")
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    done = command("infer", file, scans, "-o", f"{tmp_path / 'out'}/")
    assert done.returncode == 1, done.stderr  # the broken one
    assert "chest" in (tmp_path / "out" / "volumes.csv").read_text()
    assert "broken" in (tmp_path / "out" / "failures.csv").read_text()
    compared = command("compare", tiny_model(), file, sample_scan(), "--json")
    assert compared.returncode == 0, compared.stderr
    [candidate] = json.loads(compared.stdout)["candidates"]
    assert candidate["cases"][0]["label_match"] == 1.0


def test_a_node_segments_by_it_and_names_the_model_that_computed(served, tmp_path):
    _, file = served
    found = {}
    for name, model in (("remote", file), ("local", tiny_model())):
        with Archive() as archive:
            node = RunningNode(tmp_path / name, model, {"destination": [archive.destination]})
            with node:
                send(node.port, Scan(tmp_path, 1).write())
                assert node.wait_until_done(1)["delivered"] == 1
            [found[name]] = archive.segs
    assert found["remote"].PixelData == found["local"].PixelData
    served_hash, small_hash = (Artifact.read(path).content_sha256[:12] for path in (tiny_model(), file))
    for name, segmentation in found.items():
        assert served_hash in str(segmentation), name
        assert small_hash not in str(segmentation), name


def test_a_server_that_is_killed_and_started_again_in_the_middle_of_a_scan_costs_no_scan(own):
    server, file = own
    with open_session(file) as remote, open_session(tiny_model(), threads=1) as local:
        expected = np.concatenate([slab.logits for slab in slabs(local, image(local.spec))], axis=1)
        stream = slabs(remote, image(local.spec), batch=1)
        first = next(stream)
        server.kill()
        start = time.monotonic()
        again = threading.Thread(target=server.start)
        again.start()
        rest = [slab.logits for slab in stream]
        again.join()
        seconds = time.monotonic() - start
    np.testing.assert_array_equal(np.concatenate([first.logits, *rest], axis=1), expected)
    assert seconds < 12.0, "the tries of one request"


def test_another_model_under_the_same_name_is_refused_after_a_restart(own, tmp_path):
    server, file = own
    other = with_other_weights(tiny_model(), tmp_path / tiny_model().name)
    write_repository([other], tmp_path / "other", threads=1)
    with open_session(file) as remote:
        patches = random_patches(remote.spec, 1)
        remote.run(patches)
        server.kill()
        server.repository = tmp_path / "other"
        server.start()
        with pytest.raises(IntegrityError, match="has the SHA-256"):
            remote.run(patches)
    with pytest.raises(IntegrityError):
        check_served(file)


def test_a_model_whose_process_died_is_told_by_the_check_and_not_by_the_servers_health(own):
    server, file = own
    assert check_served(file).identical
    assert server.kill_models() >= 1
    assert server.is_ready(), "Triton tells of dead models now: serve check and its documents may say so"
    with pytest.raises(BackendError) as refused:
        check_served(file, timeout_s=5)
    assert "restart the server" in refused.value.hint
    done = command("serve", "check", file.parent)
    assert done.returncode == 6, done.stdout + done.stderr


def test_an_artifact_that_was_changed_in_the_repository_is_never_ready(tmp_path):
    port = free_port()
    file = written(tiny_model(), tmp_path, port)
    inside = file.parent / file.stem / "1" / tiny_model().name
    damaged = with_other_weights(tiny_model(), tmp_path / "damaged.onnx")
    shutil.copy(damaged, inside)
    shutil.copy(manifest_path(damaged), manifest_path(inside))
    server = RealTriton(file.parent, tmp_path, port)
    try:
        server.start(ready=False)
        assert not server.is_ready()
        assert "for which the configuration was written" in server.log.read_text(errors="replace")
        with pytest.raises(BackendError):
            check_served(file, timeout_s=5)
    finally:
        server.kill()


def test_patches_of_another_shape_are_refused_by_the_server_too(served):
    _, file = served
    remote = RemoteModel.read(file)
    server = Server(remote, file.parent, {"logits": 2})
    try:
        with pytest.raises(BackendError, match="INVALID_ARGUMENT"):
            server.infer(["logits"], np.zeros((1, 1, 8, 8), np.float32))
    finally:
        server.close()


def test_nothing_listens_beyond_this_host(served):
    server, _ = served
    opened = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    port = f"{server.port:04X}"
    listening = {local for _, local, _, state, *_ in opened if state == "0A" and local.endswith(f":{port}")}
    assert listening
    assert listening <= {f"0100007F:{port}", f"0000000000000000FFFF00000100007F:{port}"}
