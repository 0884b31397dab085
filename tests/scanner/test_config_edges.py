"""Every bound of a configuration, tried at it and just beyond, and every condition of a refusal tried alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from medattn_edge.artifact import sha256
from medattn_edge.errors import IntegrityError, UsageError
from medattn_edge.scanner.config.load import load_config
from medattn_edge.scanner.config.network import is_loopback
from medattn_edge.scanner.config.node_config import NodeConfig, Tls
from medattn_edge.scanner.config.tls import client_context, server_context
from tests.scanner.test_config import PEER, archive, load, model, refused
from tests.support.node_files import make_artifact, plain, write

COMMITMENT = {
    "receive": {"calling_ae": ["CT1"]},
    "storage_commitment": {"enabled": True},
    "commitment_peer": [PEER],
}
# Section, key, the least that can work and one less, the most that can work and one more; None: there is no such bound.
BOUNDS: list[tuple[str, str, float, float, float | None, float | None]] = [
    ("receive", "max_associations", 1, 0, 1_000_000, 1_000_001),
    ("receive", "max_per_address", 1, 0, 1_000_000, 1_000_001),
    ("receive", "max_object_mb", 1, 0, 1_000_000, 1_000_001),
    ("receive", "port", 0, -1, 65535, 65536),
    ("watch", "poll_s", 0.05, 0.049, 1e8, 1.0001e8),
    ("watch", "settle_s", 0.0, -0.001, 1e8, 1.0001e8),
    ("status", "port", 0, -1, 65535, 65536),
    ("model", "key_slices", 0, -1, None, None),
    ("model", "threads", 0, -1, None, None),
    ("model", "volume", 0, -1, None, None),
    ("model", "overlap", 0.0, -0.001, 0.99, 0.991),
    ("destination", "timeout_s", 0.05, 0.049, 1e8, 1.0001e8),
    ("destination", "port", 1, 0, 65535, 65536),
    ("limits", "max_used_fraction", 0.01, 0.009, 1.0, 1.001),
    ("limits", "min_free_gb", 0.0, -0.001, 1e9, 1.0001e9),
    ("limits", "quota_gb", 10.001, 10.0, 1e9, 1.0001e9),  # min_free_gb is 10
    ("limits", "job_timeout_s", 0.05, 0.049, 1e8, 1.0001e8),
    ("limits", "start_timeout_s", 0.05, 0.049, 1e8, 1.0001e8),
    ("limits", "memory_mb", 0, -1, None, None),
    ("limits", "drain_s", 0.0, -0.001, 1e8, 1.0001e8),
    ("limits", "keep_days", 0.0, -0.001, 1e5, 1.0001e5),
    ("limits", "quarantine_keep_days", 0.0, -0.001, 1e5, 1.0001e5),
    ("limits", "quiet_s", 0.0, -0.001, 900.0, 900.001),  # max_wait_s is 900
    ("limits", "max_wait_s", 60.0, 59.999, 1e8, 1.0001e8),  # quiet_s is 60
    ("limits", "max_study_wait_s", 0.0, -0.001, 1e8, 1.0001e8),
    ("limits", "retry_initial_s", 0.0, -0.001, 900.0, 900.001),  # retry_max_s is 900
    ("limits", "retry_max_s", 5.0, 4.999, 1e8, 1.0001e8),  # retry_initial_s is 5
    ("limits", "retries", 0, -1, None, None),
    ("limits", "interruptions", 0, -1, None, None),
    ("limits", "max_replacements", 0, -1, None, None),
    ("limits", "max_instances", 1, 0, None, None),
    ("limits", "max_bytes", 1, 0, None, None),
    ("limits", "delivery_attempts", 1, 0, None, None),
    ("storage_commitment", "keep_days", 0.0, -0.001, 1e5, 1.0001e5),
    ("storage_commitment", "max_waiting", 1, 0, 1_000_000, 1_000_001),
    ("storage_commitment", "max_instances", 1, 0, 100_000, 100_001),
    ("commitment_peer", "timeout_s", 0.05, 0.049, 1e8, 1.0001e8),
    ("commitment_peer", "port", 1, 0, 65535, 65536),
]


def changes(section: str, key: str, value: object) -> dict[str, Any]:
    if section == "model":
        return {section: model(**{key: value})}
    if section == "destination":
        return {section: archive(**{key: value})}
    if section == "commitment_peer":
        return COMMITMENT | {section: [{**PEER, key: value}]}
    return {section: {key: value}}


@pytest.mark.parametrize("bound", BOUNDS, ids=[f"{one[0]}-{one[1]}" for one in BOUNDS])
def test_a_number_is_taken_at_its_bounds_and_refused_just_beyond(tmp_path: Path, bound: Any) -> None:
    section, key, *values = bound
    for good, bad in (values[:2], values[2:]):
        if good is not None:
            assert load(tmp_path, **changes(section, key, good))
            assert refused(tmp_path, **changes(section, key, bad)).expected


@pytest.mark.parametrize(
    ("name", "at", "beyond"),
    [
        ("node", {"name": "x" * 64}, {"name": "x" * 65}),
        ("receive", {"ae_title": "X" * 16}, {"ae_title": "X" * 17}),
        ("receive", {"ae_title": "X"}, {"ae_title": ""}),
        ("receive", {"calling_ae": ["~ []X"]}, {"calling_ae": ["\x7f"]}),
        ("receive", {"calling_ae": ["A", "B" * 16]}, {"calling_ae": ["A", "B" * 17]}),
        ("receive", {"sop_classes": ["1.2"]}, {"sop_classes": ["1"]}),
        ("model", model(name="x" * 32), model(name="x" * 33)),
        ("model", model(name="0-_"), model(name="_0")),
        ("model", model(device="cuda:999"), model(device="cuda:1000")),
        ("model", model(device="cuda"), model(device="cpu:0")),
        ("model", model(device="cuda:0") + model(name="b"), model(device="cuda:0") + model(name="b", device="cuda")),
        ("destination", archive(name="x" * 32), archive(name="x" * 33)),
        ("destination", archive(ae_title="X" * 16), archive(ae_title="X" * 17)),
        ("destination", archive(calling_ae_title="X" * 16), archive(calling_ae_title="X" * 17)),
        ("destination", archive(), archive(host="")),
        ("destination", archive(), archive(port=0)),
        ("destination", archive(), archive(ae_title="")),
        ("destination", archive(), [{"name": "pacs"}]),
        ("destination", [{"name": "a", "folder": "f"}], [{"name": "a", "folder": "f", "host": "pacs.example"}]),
        ("destination", [{"name": "a", "folder": "f"}], [{"name": "a", "folder": "f", "port": 104}]),
        ("destination", [{"name": "a", "folder": "f"}], [{"name": "a", "folder": "f", "tls": True}]),
        ("destination", [{"name": "a", "folder": "f"}], archive(folder="f")),
        ("destination", archive(), archive(certificate="net.onnx", key="net.onnx")),
        ("destination", archive(), archive(certificate="net.onnx")),
        ("destination", archive(), archive(key="net.onnx")),
        ("status", {"host": "localhost"}, {"host": "localhost.example"}),
        ("status", {"port": 8041}, {"port": 11112}),
        ("node", {"log_file": "node.log"}, {"log_file": "."}),
    ],
)
def test_a_value_is_taken_at_its_limit_and_refused_just_beyond(tmp_path: Path, name: str, at: Any, beyond: Any) -> None:
    assert load(tmp_path, **{name: at})
    assert refused(tmp_path, **{name: beyond}).expected


def test_several_ports_may_be_any_free_one_and_no_two_the_same(tmp_path: Path, certificates: Any) -> None:
    tls = {"certificate": certificates.server_cert, "key": certificates.server_key, "clients_ca": certificates.ca}
    free = {"receive": {"port": 0}, "status": {"port": 0}}
    assert load(tmp_path, **free, tls={**tls, "port": 0})
    for one, other in (("receive", "tls"), ("tls", "status"), ("receive", "status")):
        sections: dict[str, Any] = {**free, "tls": {**tls, "port": 0}}
        for name in (one, other):
            sections[name] = {**sections[name], "port": 4000}
        assert "port is 4000" in refused(tmp_path, **sections).found
    for port, taken in ((65535, True), (65536, False)):
        if taken:
            assert load(tmp_path, tls={**tls, "port": port})
        else:
            assert "[tls] port is 65536" in refused(tmp_path, tls={**tls, "port": port}).found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    from tests.support.certificates import make

    return make(tmp_path_factory.mktemp("certificates"))


def test_a_listener_without_tls_may_be_closed_beside_one_with_it_only(tmp_path: Path, certificates: Any) -> None:
    tls = {"certificate": certificates.server_cert, "key": certificates.server_key, "clients_ca": certificates.ca}
    for wanted in (True, False, None):
        receive = {"calling_ae": ["CT1"]} | ({} if wanted is None else {"plain": wanted})
        assert load(tmp_path, receive=receive, tls=tls)
    assert load(tmp_path, receive={"plain": True})
    assert "there is no [tls]" in refused(tmp_path, receive={"plain": False}).found
    for missing in ("certificate", "key", "clients_ca"):
        gone = refused(tmp_path, tls={**tls, missing: tmp_path / "gone.pem"})
        assert f"[tls] {missing} {tmp_path}/gone.pem is no file" in gone.found
        assert gone.hint.startswith("ls ")


@pytest.mark.parametrize(("mode", "taken"), [(0o601, False), (0o602, False), (0o604, False), (0o660, True)])
def test_a_key_is_for_its_owner_and_group_and_for_nobody_else(
    tmp_path: Path, certificates: Any, mode: int, taken: bool
) -> None:
    key = tmp_path / "a.key"
    key.write_bytes(Path(certificates.server_key).read_bytes())
    key.chmod(mode)
    tls = {"certificate": certificates.server_cert, "key": key, "mutual": False}
    client = archive(tls=True, certificate=certificates.server_cert, key=key)
    for section in ({"tls": tls}, {"destination": client}):
        if taken:
            assert load(tmp_path, **section)
        else:
            error = refused(tmp_path, **section)
            assert f"has the mode {mode:04o}" in error.found
            assert error.hint == f"chmod o= {key}"


def test_tls_is_of_version_1_2_or_newer_and_wants_certificates_where_it_should(certificates: Any) -> None:
    tls = Tls(certificates.server_cert, certificates.server_key, certificates.ca)
    open_to_all = Tls(certificates.server_cert, certificates.server_key, mutual=False)
    from medattn_edge.scanner.config.node_config import Destination

    to_system = Destination("pacs", host="h", port=1, ae_title="A", tls=True)
    to_one = Destination("pacs", host="h", port=1, ae_title="A", tls=True, ca=certificates.ca)
    found = [server_context(tls), server_context(open_to_all), client_context(to_system), client_context(to_one)]
    assert [one.minimum_version.name for one in found] == ["TLSv1_2"] * 4
    assert [one.verify_mode.name for one in found] == ["CERT_REQUIRED", "CERT_NONE", "CERT_REQUIRED", "CERT_REQUIRED"]
    assert [one.check_hostname for one in found] == [False, False, True, True]
    assert len(found[3].get_ca_certs()) == 1  # this authority alone
    with pytest.raises(UsageError, match="no authority is named"):
        server_context(Tls(certificates.server_cert, certificates.server_key))


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("pc", False)],
)
def test_which_addresses_are_of_this_machine_only(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("given", "hint"), [("PET", "PT"), ("MRI", "MR"), ("MRT", "MR"), ("ct", "CT"), ("US", "CT"), ("mr", "MR")]
)
def test_a_modality_that_is_none_is_told_with_the_nearest(tmp_path: Path, given: str, hint: str) -> None:
    assert refused(tmp_path, model=model(modality=given)).hint == f'modality = "{hint}"'
    assert [load(tmp_path, model=model(modality=one)).models[0].modality for one in ("", "CT", "MR", "PT")] == [
        *("", "CT", "MR", "PT")
    ]


@pytest.mark.parametrize("suffix", [".torchscript", ".ts", ".pt2", ".PT2"])
def test_a_program_is_no_artifact_of_a_node(tmp_path: Path, suffix: str) -> None:
    make_artifact(tmp_path / f"net{suffix}")
    error = refused(tmp_path, model=model(artifact=f"net{suffix}"))
    assert f"artifact is net{suffix}, a program" in error.found
    assert error.hint == 'artifact = "net.onnx"'


def test_a_hash_may_be_in_capitals_and_another_one_is_refused(tmp_path: Path) -> None:
    plain(tmp_path)
    right = sha256(tmp_path / "net.onnx")
    assert load(tmp_path, model=model(sha256=right.upper())).models[0].sha256 == right
    with pytest.raises(IntegrityError, match=f"sha256 is {'0' * 16}\\.\\.\\., and net.onnx has {right[:16]}") as raised:
        load(tmp_path, model=model(sha256="0" * 64))
    assert f'sha256 = "{right}"' in raised.value.hint


def test_a_quota_that_is_no_larger_than_what_stays_free_is_told_with_one_that_works(tmp_path: Path) -> None:
    error = refused(tmp_path, limits={"quota_gb": 3.0, "min_free_gb": 4.5})
    assert error.hint == "quota_gb = 14.5"
    assert load(tmp_path, limits={"quota_gb": 14.5, "min_free_gb": 4.5})


# Storage commitment: each condition alone


@pytest.mark.parametrize(
    "sections",
    [
        COMMITMENT,
        COMMITMENT | {"receive": {"calling_ae": ["*"]}},
        COMMITMENT | {"receive": {"calling_ae": ["XA", "CT1"]}},
        COMMITMENT | {"storage_commitment": {"enabled": False}, "receive": {"calling_ae": ["XA"]}},
        COMMITMENT | {"storage_commitment": {"enabled": False}, "receive": None},
        {"storage_commitment": {"enabled": False}},
    ],
)
def test_peers_that_may_ask_are_taken(tmp_path: Path, sections: dict[str, Any]) -> None:
    assert isinstance(load(tmp_path, **sections), NodeConfig)


def test_channels_are_told_apart_by_each_of_their_patterns(tmp_path: Path) -> None:
    make_artifact(tmp_path / "net.onnx", ("t1", "flair"))
    for other in ('description = "b"', 'modality = "MR"', 'body_part = "HEAD"', "volume = 1"):
        path = write(tmp_path, plain(tmp_path) | {"model": None})
        channels = f'channels = [{{ description = "a" }}, {{ description = "a", {other} }}]'
        if other.startswith("description"):
            channels = f'channels = [{{ description = "a" }}, {{ {other} }}]'
        path.write_text(f'{path.read_text()}\n[[model]]\nname = "glioma"\nartifact = "net.onnx"\n{channels}\n')
        assert len(load_config(path).models[0].channels) == 2


def test_a_network_of_one_channel_needs_none_and_takes_a_volume(tmp_path: Path) -> None:
    assert load(tmp_path, model=model(volume=2)).models[0].volume == 2
