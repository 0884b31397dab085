"""Series that are the channels of one network: one job for each study, started when all are here, or told about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.errors import UsageError
from medattn_edge.scanner.config.sections import Channel, Model
from medattn_edge.scanner.store.custody import FilesLost
from medattn_edge.scanner.store.records import Policy, StudyGathering
from medattn_edge.scanner.store.transitions import State
from medattn_edge.scanner.work.dispatch import Routes
from tests.support.durable_node import Node

T1, FLAIR = Channel("t1", "*T1*"), Channel("flair", "*FLAIR*")
GLIOMA = Model("glioma", Path("net.onnx"), channels=(T1, FLAIR))
ROUTES = Routes((GLIOMA, Model("rest", Path("rest.onnx"), modality="MR")), ("pacs",))
WAIT = Policy().max_study_wait_s


class Study:
    """One node, and one study on it."""

    def __init__(self, node: Node, routes: Routes = ROUTES) -> None:
        self.node, self.routes = node, routes
        self.key = node.store.site.study_key("1.2.3", "glioma")

    def send(self, series: object, description: str, number: object = 1, more: str = "", **header: str) -> str:
        return self.node.keep(series, number, more, description=description, **header).key

    def tick(self, seconds: float = 60):
        self.node.pass_time(seconds)
        self.node.custody.queue_complete()
        return self.node.custody.gather_studies(self.routes.place)

    def claim(self):
        return self.node.custody.claim("cpu", lambda job: self.routes.accepts(job, "cpu"))

    def whole(self):
        """The running job of a study that has just come."""
        self.send("t1", "AX T1"), self.send("flair", "AX FLAIR")
        assert self.tick().queued == (self.key,)
        return self.claim()

    def latest(self, series: str = "") -> tuple[State, str, str, int]:
        key = self.node.key(series) if series else self.key
        with self.node.store.database.reading() as database:
            row = database.execute(
                "SELECT state, reason, detail, version FROM versions WHERE key = ? ORDER BY version DESC", (key,)
            ).fetchone()
        return State(row[0]), row[1], row[2], row[3]


@pytest.fixture
def study(node: Node) -> Study:
    return Study(node)


# Complete


def test_the_job_starts_when_every_channel_is_complete_and_has_them_in_the_networks_order(study):
    flair = study.send("flair", "AX FLAIR")
    assert study.tick().queued == ()
    assert study.latest("flair")[0] is State.JOINED
    assert study.latest()[::2] == (State.RECEIVING, "no series for t1")
    assert study.claim() is None
    t1 = study.send("t1", "AX T1")
    assert study.tick(59).queued == ()
    assert study.tick(1).queued == (study.key,)
    job = study.claim()
    assert (job.key, job.model, job.contents) == (study.key, "glioma", "")
    assert [(part.channel, part.key) for part in job.parts] == [("t1", t1), ("flair", flair)]
    assert [(name, len(files)) for name, files in study.node.custody.channel_files(job)] == [("t1", 1), ("flair", 1)]
    assert study.claim() is None
    assert study.node.segment(job, "pacs")
    assert study.latest()[0] is State.SEGMENTED


def test_series_of_two_studies_are_never_one_job(study):
    study.send("t1", "T1")
    study.send("flair", "FLAIR", study_uid="1.2.99")
    assert study.tick().queued == ()
    study.send("flair-2", "FLAIR")
    assert study.tick().queued == (study.key,)


def test_what_is_no_channel_goes_to_the_next_model_and_holds_nothing_up(study):
    study.send("t2", "AX T2", modality="MR")
    jobs = [study.whole(), study.claim()]
    assert sorted((job.key, len(job.parts)) for job in jobs) == sorted([(study.node.key("t2"), 0), (study.key, 2)])


def test_a_series_without_a_study_is_refused_since_it_could_join_anybodys(study):
    key = study.send("t1", "T1", study_uid="")
    assert study.tick().quarantined == ((key, "blank_uid"),)
    assert (study.node.spool.quarantined / key).is_dir()


def test_a_series_that_is_still_received_is_waited_for_before_a_channel_is_called_complete(study):
    study.send("t1", "T1"), study.send("flair", "FLAIR")
    study.node.pass_time(30)
    study.send("other", "T1 again")
    assert study.tick(30).queued == ()
    assert study.latest()[2] == "waits for a series that is still received"
    assert study.tick(30).quarantined == ((study.key, "ambiguous_channel"),)


# Told about


def test_a_study_that_never_gets_a_channel_is_quarantined_and_says_which_then_works_when_it_comes(study):
    study.send("t1", "T1")
    study.tick()
    assert study.tick(WAIT - 1).quarantined == ()
    assert study.tick(1).quarantined == ((study.key, "channel_missing"),)
    assert study.latest() == (State.QUARANTINED, "channel_missing", "no series for flair", 1)
    assert study.latest("t1")[0] is State.JOINED
    study.send("flair", "FLAIR")
    assert study.tick().queued == (study.key,)
    assert study.latest()[::3] == (State.QUEUED, 2)


def test_every_channel_that_comes_starts_the_wait_again(study):
    study = Study(study.node, Routes((replace(GLIOMA, channels=(T1, FLAIR, Channel("t2", "*T2*"))),), ()))
    study.send("t1", "T1")
    study.tick()
    study.node.pass_time(WAIT - 100)
    study.send("flair", "FLAIR")
    study.tick()
    assert study.tick(WAIT - 1).quarantined == ()
    assert study.tick(1).quarantined == ((study.key, "channel_missing"),)
    assert study.latest()[2] == "no series for t2"


def test_a_channel_that_is_in_quarantine_is_named_when_the_study_waits_in_vain(study):
    study.node.policy = study.node.store.policy = replace(study.node.policy, max_instances=1)
    study.send("t1", "T1"), study.send("flair", "FLAIR")
    with pytest.raises(Exception, match="more objects"):
        study.send("flair", "FLAIR", 2)
    study.tick()
    study.tick(WAIT)
    state, reason, detail, _ = study.latest()
    assert (state, reason) == (State.QUARANTINED, "channel_missing")
    assert (
        detail == f"no series for flair, and the series {study.node.key('flair')} is quarantined (too_many_instances)"
    )


def test_a_clock_that_is_set_back_holds_no_study(study):
    study.send("t1", "T1")
    study.tick()
    study.node.now -= 1e6
    study.tick(0)
    assert study.tick(WAIT).quarantined == ((study.key, "channel_missing"),)


def test_two_series_for_one_channel_are_refused_and_both_are_named(study):
    keys = [study.send(series, "AX T1") for series in ("t1", "t1-again")]
    study.send("flair", "FLAIR")
    assert study.tick().quarantined == ((study.key, "ambiguous_channel"),)
    state, reason, detail, _ = study.latest()
    assert (state, reason) == (State.QUARANTINED, "ambiguous_channel")
    assert all(key in detail for key in keys)
    assert detail.endswith("fit the channel t1")
    assert study.claim() is None


def test_a_second_series_for_a_channel_leaves_a_result_alone_and_takes_back_a_job_without_one(study):
    job = study.whole()
    study.send("t1-again", "T1")
    assert study.tick().quarantined == ((study.key, "ambiguous_channel"),)
    assert not study.node.segment(job, "pacs")
    other = Study(Node(study.node.root.parent / "other"))
    assert other.node.segment(other.whole(), "pacs")
    other.send("t1-again", "T1")
    assert other.tick().quarantined == ((other.key, "ambiguous_channel"),)
    assert other.latest()[3] == 2
    [delivery] = other.node.custody.deliveries_due()
    other.node.custody.record_delivered(delivery)
    other.node.store.close()


def test_a_series_that_fits_two_channels_is_refused_and_both_are_named(study):
    key = study.send("both", "T1 FLAIR")
    assert study.tick().quarantined == ((study.key, "ambiguous_channel"),)
    assert study.latest()[2] == f"the series {key} fits the channels t1 and flair"


def test_an_operator_narrows_the_patterns_and_tries_again(study):
    study.send("t1", "AX T1"), study.send("t1ce", "AX T1 GD"), study.send("flair", "FLAIR")
    study.tick()
    assert study.latest()[1] == "ambiguous_channel"
    study.routes = Routes((replace(GLIOMA, channels=(Channel("t1", "*T1"), FLAIR)), Model("rest", Path("r"))), ())
    assert study.node.custody.requeue(study.key) is State.RECEIVING
    gathering = study.tick(0)
    assert gathering.queued == (study.key,)
    jobs = [study.claim(), study.claim()]
    assert {job.key for job in jobs} == {study.key, study.node.key("t1ce")}


def test_a_model_that_is_gone_after_a_reload_is_told_and_its_series_are_routed_anew(study):
    study.send("t1", "T1")
    study.tick()
    study.routes = Routes((Model("rest", Path("rest.onnx")),), ())
    assert study.tick(1).quarantined == ((study.key, "route_changed"),)
    assert study.claim().key == study.node.key("t1")
    with pytest.raises(UsageError, match="not known"):
        study.node.custody.requeue("0" * 32)


# Corrections


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.SEGMENTED, State.DELIVERED])
@pytest.mark.parametrize("how", ["late image", "correction"])
def test_what_comes_late_of_a_channel_makes_a_new_version_of_the_study(study, state, how):
    job = study.whole()
    if state is State.QUEUED:
        study.node.store.jobs.fail(job, "crashed")
    elif state is not State.RUNNING:
        assert study.node.segment(job, *(["pacs"] if state is State.SEGMENTED else []))
    study.send("flair", "FLAIR", *((2,) if how == "late image" else (1, "corrected")))
    kept = state in (State.SEGMENTED, State.DELIVERED)
    assert study.latest()[::3] == (State.RECEIVING, 2)
    assert study.node.custody.is_held(job) is False
    assert study.tick(0).queued == ()
    assert study.tick().queued == (study.key,)
    again = study.claim()
    assert (again.version, [part.version for part in again.parts]) == (2, [1, 2])
    assert [len(files) for _, files in study.node.custody.channel_files(again)] == [1, 2 if how == "late image" else 1]
    assert bool(again.contents) == (how == "correction")
    states = study.node.store.snapshot().states
    assert states[State.SUPERSEDED] == (0 if kept else 1)
    assert states[State.JOINED] == 3


def test_a_correction_of_the_description_takes_the_series_out_of_the_study(study):
    study.whole()
    study.send("flair", "AX T2", 1, "corrected", modality="MR")
    study.tick()
    assert study.latest()[::2] == (State.RECEIVING, "no series for flair")
    assert study.claim().key == study.node.key("flair")
    assert study.tick(WAIT).quarantined == ((study.key, "channel_missing"),)


def test_the_same_objects_again_are_duplicates_and_start_nothing(study):
    assert study.node.segment(study.whole(), "pacs")
    study.send("flair", "AX FLAIR")
    assert study.tick() == StudyGathering()
    assert study.latest()[::3] == (State.SEGMENTED, 1)


def test_an_object_of_a_channel_that_was_refused_late_stops_the_job(study):
    job = study.whole()
    header = replace(_header(study, "flair", 2), description="FLAIR")
    study.node.custody.record_refusal(header, "too_large")
    study.node.custody.queue_complete()
    assert study.latest()[:2] == (State.QUARANTINED, "too_large")
    assert study.latest("flair")[:2] == (State.QUARANTINED, "too_large")
    assert not study.node.custody.is_held(job)
    assert (study.node.spool.quarantined / study.node.key("flair")).is_dir()


def _header(study, series, number):
    from tests.support.durable_node import sample

    return sample(series, number)[1]


# Files, kills and clean-ups


def test_a_damaged_object_of_a_channel_is_never_segmented_and_the_job_goes_on_when_it_is_sent_again(study):
    job = study.whole()
    [path] = (study.node.spool.incoming / study.node.key("flair")).iterdir()
    path.write_bytes(b"damaged")
    with pytest.raises(FilesLost) as caught:
        study.node.custody.channel_files(job)
    study.node.custody.quarantine(job, caught.value.reason)
    assert study.latest()[:2] == (State.QUARANTINED, "object_damaged")
    assert study.latest("flair")[:2] == (State.QUARANTINED, "object_damaged")
    study.send("flair", "FLAIR")
    assert study.tick().queued == (study.key,)
    assert len(study.node.custody.files(study.claim())) == 2


@pytest.mark.parametrize("when", ["joined", "queued", "running", "segmented"])
def test_a_kill_loses_nothing_and_doubles_nothing(study, when):
    if when == "joined":
        study.send("t1", "T1")
        study.tick()
        study.node.restart()
        study.send("flair", "FLAIR")
        assert study.tick().queued == (study.key,)
    else:
        job = study.whole()
        if when == "queued":
            study.node.store.jobs.fail(job, "crashed")
        if when == "segmented":
            assert study.node.segment(job, "pacs")
        found = study.node.restart()
        assert (found.requeued, found.gone, found.unreadable) == (int(when == "running"), 0, 0)
    if when != "segmented":
        job = study.claim()
        assert len(study.node.custody.files(job)) == 2
        assert study.node.segment(job, "pacs")
    assert study.claim() is None
    [delivery] = study.node.custody.deliveries_due()
    study.node.custody.record_delivered(delivery)
    assert study.latest()[::3] == (State.DELIVERED, 1)
    assert study.tick(1e6) == StudyGathering()


def test_a_result_that_vanished_is_made_again_of_the_same_channels(study):
    job = study.whole()
    assert study.node.segment(job, "pacs")
    study.node.spool.remove_result(study.key, 1)
    assert study.node.restart().results_lost == 1
    again = study.claim()
    assert (again.version, again.parts) == (job.version, job.parts)


def test_a_result_that_vanished_after_a_channel_was_corrected_is_given_up_for_the_later_version(study):
    assert study.node.segment(study.whole(), "pacs")
    study.send("flair", "FLAIR", 1, "corrected")
    study.node.spool.remove_result(study.key, 1)
    study.node.restart()
    [seen] = [one for one in study.node.store.snapshot().recent if (one.key, one.version) == (study.key, 1)]
    assert (seen.state, seen.deliveries[0].reason) == (State.FAILED, "result_replaced")


def test_a_database_that_was_lost_is_made_again_and_the_study_with_it(study):
    from tests.support.durable_node import read_header

    described = {study.send(series, text): text for series, text in (("t1", "T1"), ("flair", "FLAIR"))}
    study.node.store.close()
    for path in study.node.root.glob("node.sqlite*"):
        path.unlink()
    study.node.open()
    study.node.custody.recover(lambda path: replace(read_header(path), description=described[path.parent.name]))
    assert study.tick().queued == (study.key,)


def test_channels_are_cleaned_up_once_their_study_is_delivered_and_a_late_image_is_told(study):
    job = study.whole()
    assert study.node.custody.clean(0, 30).series == 0
    assert study.node.segment(job, "pacs")
    assert study.node.custody.clean(0, 30).series == 0
    [delivery] = study.node.custody.deliveries_due()
    study.node.custody.record_delivered(delivery)
    study.node.pass_time(1)
    assert study.node.custody.clean(0, 30).series == 2
    assert not list(study.node.spool.incoming.iterdir())
    assert not (study.node.spool.results / study.key).exists()
    assert study.node.restart().gone == 0
    study.send("flair", "FLAIR", 2)
    study.tick()
    assert study.latest("flair")[:2] == (State.QUARANTINED, "cleaned_up")
    study.tick(WAIT)
    assert study.latest()[:2] == (State.QUARANTINED, "channel_missing")
    assert "t1" in study.latest()[2]
    assert "flair" in study.latest()[2]


def test_a_dead_delivery_of_a_study_is_tried_again_like_any(study):
    assert study.node.segment(study.whole(), "pacs")
    [delivery] = study.node.custody.deliveries_due()
    study.node.store.deliveries.give_up(delivery, "no_connection")
    assert study.node.custody.requeue(study.key) is State.SEGMENTED
    assert [one.key for one in study.node.custody.deliveries_due()] == [study.key]


# What is shown


def test_page_status_and_metrics_show_the_study_its_channels_and_what_it_waits_for(study):
    pytest.importorskip("jinja2", reason="the extra node is not installed")
    from medattn_edge.scanner.observe.metrics import text_of
    from medattn_edge.scanner.observe.page import page_of
    from medattn_edge.scanner.observe.server import document
    from tests.support.status_scenes import Watched

    t1, watched = study.send("t1", "T1"), Watched(study.node)
    study.tick()

    def shown() -> tuple[str, dict[str, Any], str]:
        snapshot, health = watched.snapshot(), watched.health()
        return page_of(snapshot, health, set()), document(snapshot, health), text_of(snapshot, health)

    page, status, metrics = shown()
    assert f"in study <code>{study.key[:8]}</code>" in page
    assert "no series for flair" in page
    [gathering] = status["gathering"]
    assert (gathering["key"], gathering["model"], gathering["instances"]) == (study.key, "glioma", 1)
    assert [one["study"] for one in status["recent"]] == ["", study.key]
    assert "medattn_edge_studies_gathering 1" in metrics
    assert 'medattn_edge_series{state="joined"} 1' in metrics
    study.tick(WAIT)
    page, status, metrics = shown()
    assert "1 series in quarantine <code>channel_missing</code>" in page
    assert f"medattn-edge node requeue</span> <span>{study.key}" in page
    assert status["quarantined"][0]["detail"] == "no series for flair"
    assert "medattn_edge_studies_gathering 0" in metrics
    flair = study.send("flair", "FLAIR")
    study.tick()
    whole = shown()[1]["recent"][0]
    assert list(whole["channels"]) == [
        {"channel": "t1", "key": t1, "version": 1},
        {"channel": "flair", "key": flair, "version": 1},
    ]
    assert whole["instances"] == 2
