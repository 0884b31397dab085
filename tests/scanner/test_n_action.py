"""Storage commitment over the network: who may ask, what is refused, and how the answer comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.scanner.config.sections import CommitmentPeer, StorageCommitment
from medattn_edge.scanner.deliver.commitment import CommitmentAnswers
from tests.support.commitment_peer import CT, PUSH_MODEL, CommitmentScu, information
from tests.support.durable_node import Node
from tests.support.serving import Serving

SECTION = StorageCommitment(enabled=True, max_waiting=3, max_instances=4)
HERE = (CT, "1.2.3.1.0")


@pytest.fixture
def scu() -> Iterator[CommitmentScu]:
    with CommitmentScu() as made:
        yield made


@pytest.fixture
def serving(node: Node) -> Iterator[Serving]:
    node.keep(1, 0)
    with Serving(node, commitment=SECTION, peers=["SCANNER"], calling_ae=("SCANNER", "OTHER")) as made:
        yield made


def answers_of(serving: Serving, scu: CommitmentScu) -> CommitmentAnswers:
    assert serving.provider is not None
    peer = CommitmentPeer(**scu.peer)
    commitments = serving.node.custody.commitments
    return CommitmentAnswers(peer, 30.0, {CT}, commitments, serving.log, "MEDATTN", serving.provider.association_of)


@contextmanager
def answering(serving: Serving, scu: CommitmentScu) -> Iterator[None]:
    stopping, wake = threading.Event(), threading.Event()
    answers = answers_of(serving, scu)
    serving.provider._wake = lambda title: wake.set()
    thread = threading.Thread(target=answers.run, args=(stopping, wake))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        wake.set()
        thread.join()


def counts(serving: Serving) -> dict[str, int]:
    return dict(serving.node.custody.snapshot().commitments)


def test_all_committed_comes_as_event_1_on_an_association_to_who_asked(serving, scu):
    with answering(serving, scu):
        assert scu.ask(serving.port, information("2.25.7", [HERE])) == 0x0000
        [answer] = scu.wait()
    assert answer == ("2.25.7", 1, {"1.2.3.1.0"}, {}, False)
    assert counts(serving) == {"waiting": 0, "answered": 1, "dead": 0}
    [line] = serving.events("commitment_answered")
    assert (line["count"], line["failures"], line["destination"]) == (1, 0, "SCANNER")


def test_what_fails_comes_as_event_2_with_the_reasons(serving, scu):
    with answering(serving, scu):
        assert scu.ask(serving.port, information("2.25.7", [HERE, (CT, "1.9")])) == 0x0000
        [answer] = scu.wait()
    assert (answer.event, answer.committed, answer.failed) == (2, {"1.2.3.1.0"}, {"1.9": 0x0112})


def test_who_keeps_the_association_open_gets_the_answer_on_it(serving, scu):
    with answering(serving, scu):
        assert scu.ask(serving.port, information("2.25.7", [HERE]), hold=5) == 0x0000
    [answer] = scu.answers
    assert answer == ("2.25.7", 1, {"1.2.3.1.0"}, {}, True)
    assert counts(serving)["answered"] == 1


def test_an_answer_that_is_not_taken_is_sent_again_until_it_is(serving, scu):
    scu.down()
    answers = answers_of(serving, scu)
    assert scu.ask(serving.port, information("2.25.7", [HERE])) == 0x0000
    assert answers.answer_due() == 1
    scu.up()
    scu.status = 0x0110
    for _ in range(2):
        serving.node.pass_time(900)
        answers.answer_due()
        scu.status = 0x0000
    assert [line["reason"] for line in serving.events("commitment_failed")] == ["no_connection", "refused"]
    assert len(scu.answers) == 1
    serving.node.pass_time(900)
    assert answers.answer_due() == 0
    assert len(scu.answers) == 1


def test_a_peer_that_does_not_take_the_role_of_the_node_is_told_apart(serving):
    with CommitmentScu(roles=False) as scu:
        assert scu.ask(serving.port, information("2.25.7", [HERE])) == 0x0000
        answers_of(serving, scu).answer_due()
        [line] = serving.events("commitment_failed")
        assert line["reason"] == "commitment_not_accepted"
        assert scu.answers == []


def test_it_is_given_up_in_the_end_and_said(serving, scu):
    scu.down()
    assert scu.ask(serving.port, information("2.25.7", [HERE])) == 0x0000
    answers = answers_of(serving, scu)
    for _ in range(3):
        assert answers.answer_due() == 1
        serving.node.pass_time(900)
    assert answers.answer_due() == 0
    assert len(serving.events("commitment_dead")) == 1


def test_a_restart_in_between_loses_no_request(node, serving, scu):
    assert scu.ask(serving.port, information("2.25.7", [HERE])) == 0x0000
    node.restart()
    peer = CommitmentPeer(**scu.peer)
    again = CommitmentAnswers(peer, 30.0, {CT}, node.custody.commitments, serving.log, "MEDATTN", lambda number: None)
    assert again.answer_due() == 1
    assert [one.transaction for one in scu.answers] == ["2.25.7"]


MALFORMED: dict[str, tuple[Any, dict[str, Any], int]] = {
    "no transaction": (information(None, [HERE]), {}, 0x0115),
    "an empty transaction": (information("", [HERE]), {}, 0x0115),
    "a transaction that is no UID": (information("1.2.x", [HERE]), {}, 0x0115),
    "no list": (information("2.25.7", None), {}, 0x0115),
    "an empty list": (information("2.25.7", []), {}, 0x0115),
    "a blank instance": (information("2.25.7", [HERE, (CT, "")]), {}, 0x0115),
    "two classes": (information("2.25.7", [([CT, CT], "1.2")]), {}, 0x0115),
    "too many": (information("2.25.7", [(CT, f"1.{number}") for number in range(5)]), {}, 0x0213),
    "too long": (information("2.25.7", [(CT, f"1.{number}") for number in range(500)]), {}, 0x0213),
    "nothing at all": (None, {}, 0x0115),
    "another action": (information("2.25.7", [HERE]), {"action": 2}, 0x0123),
    "another instance": (information("2.25.7", [HERE]), {"instance": "1.2.3"}, 0x0112),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("kind", MALFORMED)
def test_a_request_that_is_not_whole_is_refused_and_nothing_is_lost(serving, scu, kind):
    dataset, changes, status = MALFORMED[kind]
    assert scu.ask(serving.port, dataset, **changes) == status
    assert len(serving.events("commitment_refused")) == 1
    assert sum(counts(serving).values()) == 0
    assert scu.ask(serving.port, information("2.25.8", [HERE])) == 0x0000


def test_bytes_that_are_no_data_set_are_refused(serving, scu, monkeypatch):
    from pynetdicom import association

    for garbage in (
        b"\xff" * 300,
        bytes.fromhex("0800951100000000") * 1,
        bytes.fromhex("08009911ffffffff" + "fefff0e0" * 40),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(association, "encode", lambda *about, said=garbage: said)
            assert scu.ask(serving.port, information("2.25.7", [HERE])) in (0x0110, 0x0115)
    assert len(serving.events("commitment_refused")) == 3
    assert scu.ask(serving.port, information("2.25.8", [HERE])) == 0x0000


def test_more_than_may_wait_are_refused_until_some_are_answered(serving, scu):
    statuses = [scu.ask(serving.port, information(f"2.25.{number}", [HERE])) for number in range(1, 5)]
    assert statuses == [0, 0, 0, 0x0213]
    answers_of(serving, scu).answer_due()
    assert len(scu.answers) == 3
    assert scu.ask(serving.port, information("2.25.4", [HERE])) == 0x0000


def test_who_may_send_but_not_ask_is_told_so(serving):
    with CommitmentScu("OTHER") as other:
        assert other.ask(serving.port, information("2.25.7", [HERE])) == 0x0124
    [line] = serving.events("commitment_refused")
    assert (line["reason"], line["status"]) == ("commitment_not_allowed", 0x0124)
    assert sum(counts(serving).values()) == 0


def test_a_node_that_promises_nothing_does_not_take_the_class(node, scu):
    with Serving(node) as serving:
        assert scu.ask(serving.port, information("2.25.7", [HERE])) is None


def test_the_roles_are_those_of_the_standard(serving, scu):
    """Whoever asks is the user, whatever else it offers to be; who wants to be only the provider is not for us."""
    assert scu.ask(serving.port, information("2.25.7", [HERE]), role=(True, True)) == 0x0000
    assert scu.ask(serving.port, information("2.25.8", [HERE]), role=(True, False)) == 0x0000
    assert scu.ask(serving.port, information("2.25.9", [HERE]), role=(False, True)) is None
    assert PUSH_MODEL == "1.2.840.10008.1.20.1"
