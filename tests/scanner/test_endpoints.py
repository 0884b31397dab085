"""A node's ways in and out, opened in this process: which threads run, what a change leaves alone, and how it ends."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.process import Child
from medattn_edge.scanner.config.node_config import (
    CommitmentPeer,
    Destination,
    Limits,
    Model,
    NodeConfig,
    Receive,
    Status,
    StorageCommitment,
    Watch,
)
from medattn_edge.scanner.config.sections import Channel
from medattn_edge.scanner.endpoints import Endpoints
from medattn_edge.scanner.node import Node as WholeNode
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.store.records import Part
from medattn_edge.scanner.store.transitions import State
from medattn_edge.scanner.work.dispatch import Routes
from medattn_edge.scanner.work.pool import WorkerPool
from tests.scanner.test_receive_refusals import rejection, wait
from tests.support.dicom_peers import free_port
from tests.support.durable_node import Node

PEER = CommitmentPeer("CT1", "127.0.0.1", 104)
OURS = ("deliver-", "commit-", "watch", "listen-", "work-")


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    for name in ("in", "out", "other"):
        (tmp_path / name).mkdir()
    return NodeConfig(
        tmp_path / "node",
        (Model("lungs", tmp_path / "net.onnx"),),
        (Destination("disk", folder=tmp_path / "out"), Destination("shelf", folder=tmp_path / "other")),
        receive=Receive(("CT1",), port=free_port()),
        watch=Watch(tmp_path / "in"),
        commitment_peers=(PEER,),
        storage_commitment=StorageCommitment(enabled=True),
    )


class Opened:
    """Endpoints over the durable half of a node."""

    def __init__(self, config: NodeConfig, node: Node) -> None:
        self.config, self.node, self.text = config, node, io.StringIO()
        names = [one.name for one in config.destinations]
        self.log = Log(self.text, allow=("plain", "watch", "CT1", *names))
        self.endpoints = Endpoints(config, node.custody, Associations(), self.log)

    def threads(self) -> dict[str, threading.Thread]:
        """Those of a node that are alive, by name."""
        return {one.name: one for one in threading.enumerate() if one.name.startswith(OURS) and one.is_alive()}

    def change(self, **changes: Any) -> None:
        new = replace(self.config, **changes)
        self.endpoints.change(self.config, new)
        self.config = new

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.text.getvalue().splitlines()) if line["event"] == name]


@pytest.fixture
def opened(config: NodeConfig, node: Node) -> Iterator[Opened]:
    made = Opened(config, node)
    made.endpoints.open()
    yield made
    end = time.monotonic() + 5
    made.endpoints.stop_receiving(end)
    made.endpoints.finish_deliveries(end)
    assert made.threads() == {}


def test_each_way_in_and_out_is_a_thread_of_its_own_and_all_are_well(opened: Opened) -> None:
    assert set(opened.threads()) == {"deliver-disk", "deliver-shelf", "commit-CT1", "watch", "listen-plain"}
    assert opened.endpoints.broken() == ""
    receive = opened.config.receive
    assert receive is not None
    assert [(line["listener"], line["port"]) for line in opened.events("listening")] == [("plain", receive.port)]


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({"storage_commitment": StorageCommitment()}, {"commit-CT1"}),
        ({"commitment_peers": ()}, {"commit-CT1"}),
        ({"receive": None}, {"commit-CT1", "listen-plain"}),
        ({"watch": None}, {"watch"}),
        ({"destinations": ()}, {"deliver-disk", "deliver-shelf"}),
    ],
)
def test_what_is_not_configured_is_not_opened_and_is_closed_by_a_change(
    config: NodeConfig, node: Node, opened: Opened, changes: dict[str, Any], without: set[str]
) -> None:
    everything = set(opened.threads())
    opened.change(**changes)
    wait(lambda: set(opened.threads()) == everything - without)
    assert opened.endpoints.broken() == ""
    opened.change(**{name: getattr(config, name) for name in changes})
    wait(lambda: set(opened.threads()) == everything)
    del node


def test_a_change_leaves_alone_what_it_does_not_name(opened: Opened, tmp_path: Path) -> None:
    def kept() -> set[str]:
        now = opened.threads()
        return {name for name, thread in before.items() if now.get(name) is thread}

    before = opened.threads()
    opened.change(limits=Limits(quiet_s=1.0), name="other")
    assert kept() == set(before)
    opened.change(destinations=(opened.config.destinations[0], Destination("shelf", folder=tmp_path / "out")))
    assert kept() == set(before) - {"deliver-shelf"}
    opened.change(watch=replace(opened.config.watch, poll_s=1.0))
    assert kept() == {"deliver-disk", "commit-CT1"}
    assert opened.config.receive is not None
    before = opened.threads()
    opened.change(receive=replace(opened.config.receive, calling_ae=("*",)))
    assert kept() == {"deliver-disk", "deliver-shelf"}
    assert rejection(opened.config.receive.port, "STRANGER") is None


def test_when_receiving_has_ended_nothing_listens_or_looks_and_results_still_go_out(opened: Opened) -> None:
    before = opened.threads()
    opened.endpoints.stop_receiving(time.monotonic() + 5)
    assert {name for name, thread in before.items() if not thread.is_alive()} == {"watch", "listen-plain"}
    assert opened.endpoints.broken() == ""
    opened.endpoints.stop_receiving(time.monotonic())


def test_a_thread_that_ended_by_itself_is_named(config: NodeConfig, node: Node) -> None:
    for part, prefix in (("watching", "watch"), ("delivering", "deliver-"), ("committing", "commit-")):
        made = Opened(config, node)
        made.endpoints.open()
        running = {
            "watch": [made.endpoints._watcher],
            "deliver-": list(made.endpoints._deliverers.values())[:1],
            "commit-": list(made.endpoints._answers.values()),
        }[prefix]
        for one in running:
            assert one is not None
            one.stop()
            one.thread.join(10)
        assert made.endpoints.broken() == part
        end = time.monotonic() + 5
        made.endpoints.stop_receiving(end)
        made.endpoints.finish_deliveries(end)


def test_what_is_due_is_delivered_before_the_end(config: NodeConfig, node: Node) -> None:
    made = Opened(replace(config, receive=None, watch=None, storage_commitment=StorageCommitment()), node)
    made.endpoints.open()
    for series in range(3):
        node.segment(node.job(series), "disk")
    made.endpoints.finish_deliveries(time.monotonic() + 20)
    assert node.store.snapshot().states[State.DELIVERED] == 3
    assert made.threads() == {}
    assert made.endpoints.broken() == ""  # nothing is left of them


# Routes and workers


def test_a_worker_takes_a_job_of_its_device_with_channels_or_without(node: Node, tmp_path: Path) -> None:
    job = node.job()
    study = replace(job, parts=(object(),), model="glioma")  # a study's job is one that has parts
    for models, device, series in (
        ((Model("a", tmp_path),), "cpu", True),
        ((Model("a", tmp_path),), "cuda:0", False),
        ((Model("a", tmp_path, device="cuda:0"),), "cpu", False),
        ((Model("a", tmp_path, modality="MR"),), "cpu", False),
        ((Model("a", tmp_path, modality="MR"), Model("b", tmp_path)), "cpu", True),
        ((), "cpu", False),
    ):
        assert Routes(models, ("pacs",)).accepts(job, device) is series
    channelled = Model("glioma", tmp_path, channels=(Channel("T1"),))
    parts = node_parts("T1")
    assert not Routes((channelled,), ()).accepts(job, "cpu")  # it waits for its study
    assert Routes((channelled,), ()).accepts(replace(study, parts=parts), "cpu")
    assert not Routes((channelled,), ()).accepts(replace(study, parts=parts), "cuda:0")
    assert not Routes((channelled,), ()).accepts(replace(study, parts=node_parts("T1", "T2")), "cpu")
    assert not Routes((channelled,), ()).accepts(replace(study, parts=parts, model="other"), "cpu")
    assert Routes((), ("pacs", "disk")).destinations_of(Model("a", tmp_path)) == ("pacs", "disk")
    named = Model("a", tmp_path, destinations=("disk",))
    assert Routes((), ("pacs", "disk")).destinations_of(named) == ("disk",)


def node_parts(*channels: str) -> Any:
    return tuple(Part(name, "k" * 32, 1, ("a.dcm",)) for name in channels)


def test_a_pool_without_workers_says_so_and_quarantines_what_no_model_takes(config: NodeConfig, node: Node) -> None:
    text = io.StringIO()
    models = (
        Model("a", Path("net.onnx"), modality="MR"),
        Model("b", Path("r"), modality="MR", release_sha256="5" * 64),
    )
    log = Log(text, allow=("no_model",))
    pool = WorkerPool(replace(config, models=models), node.custody, log, lambda: None)
    assert (pool.ready, pool.why, pool.broken(), pool.seen()) == (False, "starting", "", ())
    assert pool.models_seen() == (("a", "cpu", "onnx"), ("b", "cpu", "release"))
    for series in (1, 2):
        node.keep(series, 1)
    node.pass_time(60)
    assert len(node.custody.queue_complete().queued) == 2
    pool.tick(wake=False)
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [(line["event"], line["reason"], line["level"], line["key"], line["version"]) for line in lines] == [
        ("quarantined", "no_model", "warning", node.key(series), 1) for series in (1, 2)
    ]
    assert {one.reason for one in node.store.snapshot().quarantined} == {"no_model"}
    assert pool.finish(time.monotonic()) is True


# The node as a whole, before it runs


def whole(config: NodeConfig, node: Node, **changes: Any) -> WholeNode:
    return WholeNode(Path("node.toml"), replace(config, **changes), node.custody, Log(io.StringIO()))


def test_a_node_says_why_it_is_not_ready_and_shows_what_it_is(config: NodeConfig, node: Node) -> None:
    model = replace(config.models[0], sha256="5" * 64)
    made = whole(config, node, models=(model,), name="ct-room-2")
    health = made.health()
    assert (health.ready, health.why, health.draining) == (False, "starting", False)
    assert (health.name, health.site, health.associations) == ("ct-room-2", node.custody.fingerprint, 0)
    assert health.config == str(Path("node.toml").absolute())
    assert health.model_hashes == {"lungs": "5" * 64}
    assert health.destinations == ("disk", "shelf")
    assert health.models == (("lungs", "cpu", "onnx"),)
    assert abs(health.started - time.time()) < 60
    made.end()
    assert (made.health().why, made.health().draining, made.health().ready) == ("draining", True, False)
    assert made.snapshot().instances == 0


def test_pictures_are_shown_only_where_there_is_a_page_that_may_show_them(config: NodeConfig, node: Node) -> None:
    job = node.job()
    node.segment(job, "disk")
    picture = node.spool.result(job.key, 1) / "overlay.png"
    for status, shown in ((Status(port=0), picture), (Status(port=0, thumbnails=False), None), (None, None)):
        made = whole(config, node, status=status)
        assert made.thumbnail(job.key, 1) == shown
        assert made.thumbnail(job.key, 2) is None


def test_a_bug_in_a_worker_is_told_by_its_type_alone_and_costs_the_series_one_attempt() -> None:
    """What nobody foresaw: a task before any model was opened."""
    child = Child("medattn_edge.scanner.work.worker")
    try:
        reply, _ = child.ask({"do": "segment", "task": {}}, timeout_s=60)
        assert reply == {"lost": "failed", "found": "AssertionError", "why": "bug"}
        reply, _ = child.ask({"do": "open", "models": [], "root": "/nowhere", "shared_cores": False}, timeout_s=60)
        assert reply == {"canaries": {}}
        reply, _ = child.ask({"do": "modules"}, timeout_s=60)
        assert reply == {"modules": []}
    finally:
        child.close()
