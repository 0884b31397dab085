"""What the node and its workers tell each other comes back as it was."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from medattn_edge.reasons import CRASHED, JOB_REASONS
from medattn_edge.scanner.config.sections import Channel, Model
from medattn_edge.scanner.store.records import Output
from medattn_edge.scanner.work.tasks import Done, Task, WorkerLost, model_from_json, model_to_json

FILES = tuple(Path(f"/spool/{name}") for name in "abcde")


def test_the_files_of_each_channel_are_told_apart_by_their_numbers() -> None:
    task = Task.of("glioma", [("T1", FILES[:2]), ("FLAIR", FILES[2:])], Path("/results"), "5" * 16)
    assert (task.files, task.channels) == (FILES, (("T1", 2), ("FLAIR", 3)))
    assert task.of_channels() == {"T1": FILES[:2], "FLAIR": FILES[2:]}
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    plain = Task.of("lungs", [("", FILES)], Path("/results"))
    assert (plain.channels, plain.of_channels(), plain.contents) == ((), {}, "")


def test_what_was_made_comes_back_with_its_times_and_notes() -> None:
    done = Done((Output("seg", "seg.dcm", "1.2"), Output("overlay", "overlay.png")), {"read": 1.5}, ("resampled",))
    assert Done.from_json(json.loads(json.dumps(done.to_json()))) == done


@pytest.mark.parametrize("channels", [(), (Channel("T1", "*t1*", "MR", "HEAD", 2), Channel("FLAIR"))])
def test_a_model_comes_back_with_every_key(channels: tuple[Channel, ...]) -> None:
    model = Model(
        *("lungs", Path("/models/net.onnx"), "5" * 64, "6" * 64, "cuda:1", "CT", "CHEST", "*", "CT?"),
        *("labelmap", 3, True, True, True, 0.25, True, True, 2, ("pacs",), 4, channels, True, "net.onnx"),
    )
    assert all(
        getattr(model, one.name) != one.default for one in fields(Model) if one.name not in ("description", "channels")
    )
    assert model_from_json(json.loads(json.dumps(model_to_json(model)))) == model


def test_a_lost_worker_says_what_its_reason_means_unless_it_could_say_more() -> None:
    assert (WorkerLost(CRASHED).found, WorkerLost(CRASHED).why) == (JOB_REASONS[CRASHED].meaning, "")
    told = WorkerLost(CRASHED, "of a bug", "bug")
    assert (told.found, told.reason, told.why) == ("of a bug", CRASHED, "bug")
