"""Logs hold numbers, flags, known words and series keys; nobody's name gets in, whoever writes it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from enum import Enum

import pytest

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.scanner.observe.allowlist import REASON_CODES
from medattn_edge.scanner.observe.capture import captured
from medattn_edge.scanner.observe.fields import FLAGS, NUMBERS, VALUES
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.store.records import Fate, code
from medattn_edge.scanner.store.transitions import State
from tests.support.durable_node import sample

NAME, PATIENT, UID = "Mustermann^Erika", "PID4711", "1.2.840.99.4711.1"
SECRETS = (NAME, "Mustermann", PATIENT, UID, "4711")
KEY = "0123456789abcdef" * 2


@pytest.fixture
def stream():
    return io.StringIO()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json(stream):
    log = Log(stream, allow=["pacs"])
    log.event("delivered", key=KEY, version=2, seconds=1.5, tls=True, state=State.DELIVERED, destination="pacs")
    [line] = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "delivered",
        "key": KEY,
        "version": 2,
        "seconds": 1.5,
        "tls": True,
        "state": "delivered",
        "destination": "pacs",
    }


@pytest.mark.parametrize("value", [NAME, PATIENT, UID, "mustermann", 4711.5, None, [NAME], b"Mustermann"])
@pytest.mark.parametrize("field", sorted(VALUES | FLAGS))
def test_a_field_of_words_or_flags_holds_nothing_that_the_log_was_not_told(stream, field, value):
    Log(stream, allow=["pacs"]).event("received", **{field: value})
    assert lines(stream)[0][field] == "withheld"


@pytest.mark.parametrize("field", sorted(NUMBERS))
def test_a_field_of_numbers_holds_numbers(stream, field):
    for value in (NAME, PATIENT, UID, True, None, Fate.NEW):
        Log(stream).event("received", **{field: value})
    assert {line[field] for line in lines(stream)} == {"withheld"}
    Log(stream).event("received", **{field: float("nan")})
    assert lines(stream)[-1][field] is None


def test_a_number_of_an_enumeration_is_no_word(stream):
    Log(stream).event("received", state=Enum("Patients", {"ONE": 4711})["ONE"])
    assert lines(stream)[0]["state"] == "withheld"


def test_a_uid_is_no_key(stream):
    Log(stream).event("received", key=UID)
    Log(stream).failure("refused", ValueError("x"), key=NAME)
    assert [line["key"] for line in lines(stream)] == ["withheld", "withheld"]


def test_a_field_or_an_event_that_is_not_known_is_a_bug(stream):
    with pytest.raises(ValueError, match="patient_name"):
        Log(stream).event("received", patient_name=1)
    with pytest.raises(ValueError, match="code"):
        Log(stream).event(NAME)
    assert stream.getvalue() == ""


def test_an_error_is_logged_without_its_message(stream):
    def raised(error):
        try:
            raise error
        except type(error) as caught:
            return caught

    log = Log(stream)
    log.failure("refused", raised(ScanError(f"the patient {NAME} has no slices", hint=UID)), key=KEY)
    log.failure("delivery_failed", raised(OSError(111, f"{NAME} refused")), level=Level.WARNING)
    log.failure("delivery_failed", OutputError(NAME))
    first, second, third = lines(stream)
    assert (first["error"], first["code"], first["module"], first["key"]) == (
        "ScanError",
        "scan",
        "scanner.test_log",
        KEY,
    )
    assert (second["error"], second["errno"], second["level"]) == ("ConnectionRefusedError", 111, "warning")
    assert "module" not in third
    assert not any(secret in stream.getvalue() for secret in SECRETS)


def test_events_below_the_least_level_are_not_written(stream):
    log = Log(stream, least=Level.WARNING)
    log.event("received")
    log.event("refused", level=Level.WARNING)
    assert [line["event"] for line in lines(stream)] == ["refused"]


def test_words_of_a_new_configuration_can_be_told_later(stream):
    log = Log(stream)
    log.event("delivered", destination="archive")
    log.allow_values(["archive"])
    log.event("delivered", destination="archive")
    assert [line["destination"] for line in lines(stream)] == ["withheld", "archive"]


def test_a_file_is_rotated_and_never_grows_for_ever(tmp_path):
    log = Log(tmp_path / "node.log", max_bytes=2000, backups=2)
    for number in range(100):
        log.event("received", count=number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.log", "node.log.1", "node.log.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())


def test_a_log_in_a_folder_that_does_not_exist_says_so(tmp_path):
    with pytest.raises(OutputError, match="mkdir"):
        Log(tmp_path / "nowhere" / "node.log")


def test_every_reason_is_a_word_that_can_be_told(stream):
    log = Log(stream, allow=REASON_CODES)
    for reason in REASON_CODES:
        log.event("quarantined", reason=code(reason))
    assert {line["reason"] for line in lines(stream)} == set(REASON_CODES)


def test_a_log_that_cannot_be_written_does_not_stop_the_node(capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    log = Log(Full())
    log.event("received", key=KEY)
    assert log.lost == 1
    assert capsys.readouterr().err == ""


def test_many_threads_write_whole_lines(stream):
    log = Log(stream)
    threads = [
        threading.Thread(target=lambda: [log.event("received", key=KEY, count=n) for n in range(50)]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 300


def test_what_libraries_log_is_reduced_to_where_it_comes_from(stream, capsys):
    for name in ("pynetdicom.acse", "pydicom", "highdicom.seg.sop", "anybody"):
        with captured(Log(stream)):
            logger = logging.getLogger(name)
            logger.warning("received %s", NAME)
            logger.info("below %s", NAME)
            try:
                raise KeyError(UID)
            except KeyError:
                logger.exception("cannot store %s", PATIENT)
    found = lines(stream)
    assert [line["level"] for line in found] == ["warning", "error"] * 4
    assert found[1]["error"] == "KeyError"
    assert {line["module"] for line in found} == {"scanner.test_log"}
    assert not any(secret in stream.getvalue() + capsys.readouterr().err for secret in SECRETS)


def test_a_handler_that_somebody_adds_cannot_print_a_data_set_either(stream):
    pytest.importorskip("pynetdicom")
    from pynetdicom import debug_logger

    logger, added = logging.getLogger("pynetdicom"), io.StringIO()
    before = logger.handlers, logger.level
    try:
        with captured(Log(stream)):
            debug_logger()
            logger.handlers[0].setStream(added)
            logging.getLogger("pynetdicom.events").debug("Patient's Name: %s", NAME)
    finally:
        logger.handlers, logger.level = before
    assert added.getvalue() == "D: withheld\n"


def test_warnings_and_the_ends_of_threads_are_reduced_too(stream, capsys):
    with captured(Log(stream)), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"Invalid value for VR UI: {UID!r}", UserWarning, stacklevel=1)

        def end():
            raise ValueError(NAME)

        thread = threading.Thread(target=end)
        thread.start()
        thread.join()
    found = lines(stream)
    assert [(line["event"], line["error"]) for line in found] == [
        ("warning", "UserWarning"),
        ("uncaught", "ValueError"),
    ]
    assert not any(secret in stream.getvalue() + capsys.readouterr().err for secret in SECRETS)


def test_the_end_of_the_process_tells_no_name(tmp_path):
    code = f"""
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.observe.capture import captured
with captured(Log()):
    try:
        raise KeyError({NAME!r})
    except KeyError as error:
        import sys; sys.excepthook(type(error), error, error.__traceback__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = done.stderr.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["error"]) == ("uncaught", "KeyError")


def test_everything_is_as_before_after_capturing(stream):
    before = logging.getLogRecordFactory(), warnings.showwarning, threading.excepthook, sys.excepthook
    with captured(Log(stream)):
        pass
    assert (logging.getLogRecordFactory(), warnings.showwarning, threading.excepthook, sys.excepthook) == before
    assert not [handler for handler in logging.getLogger().handlers if type(handler).__module__.endswith("log_capture")]


def test_a_whole_run_logs_no_name_no_id_and_no_uid(node, stream):
    log = Log(stream, allow=["pacs", "no_connection", "missing_slice", "worker-0"])
    data, header = sample(f"{UID}.7", 1, more=f"{NAME} {PATIENT}")
    received = node.custody.keep(data, header, NAME)
    log.event("received", key=received.key, fate=received.fate, peer=NAME, bytes=len(data), version=received.version)
    node.pass_time(60)
    for key in node.custody.queue_complete().queued:
        log.event("complete", key=key)
    job = node.custody.claim("worker-0")
    log.event("claimed", key=job.key, worker="worker-0", modality=job.modality, attempt=job.attempt)
    node.segment(job, "pacs")
    [delivery] = node.store.deliveries.due()
    log.event("delivering", key=delivery.key, destination=delivery.destination)
    next_try = node.store.deliveries.record_failure(delivery, "no_connection")
    log.event("delivery_failed", key=delivery.key, reason="no_connection", next_try_s=next_try - node.now)
    log.failure("refused", ScanError(f"{UID} of {NAME}"))
    recovery = node.restart()
    log.event("recovered", adopted=recovery.adopted, requeued=recovery.requeued)
    assert len(lines(stream)) == 7
    shown = stream.getvalue() + repr(node.store.snapshot()) + " ".join(map(str, node.root.rglob("*")))
    assert not any(secret in shown for secret in SECRETS)
    assert "1.2.3" not in shown
