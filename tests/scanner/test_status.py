"""The status server: every path, for this machine only, read only, and honest when the disk is gone."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from medattn_edge.errors import HostError
from medattn_edge.scanner.config.sections import Status
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.observe.server import StatusServer, document
from medattn_edge.scanner.observe.style import DARK, LIGHT
from tests.support.status_scenes import SCENES, VOLUMES_ML, Watched, all_down, calm, many, quarantine, segmented

PATHS = ("/", "/status.json", "/metrics", "/ready", "/live")


@contextmanager
def served(watched, *, host="127.0.0.1") -> Iterator[tuple[int, io.StringIO]]:
    """The port, and what is logged."""
    said = io.StringIO()
    server = StatusServer(Status(host=host, port=0), watched, Log(said))
    port = server.start()
    try:
        yield port, said
    finally:
        server.stop()


def ask(port, path, *, method="GET", host=None, address="127.0.0.1"):
    """(status, headers, body)."""
    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=host is not None)
        if host:
            connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_every_path_answers_with_its_type_and_headers_that_keep_it_here(node):
    kinds = {"/": "text/html", "/status.json": "application/json", "/metrics": "text/plain; version=0.0.4"}
    with served(calm(node)) as (port, _):
        for path in (*PATHS, "/nowhere"):
            code, headers, body = ask(port, path)
            assert code == (404 if path == "/nowhere" else 200)
            assert headers["Content-Type"].startswith(kinds.get(path, "text/plain"))
            assert headers["Cache-Control"] == "no-store"
            assert headers["Content-Security-Policy"].startswith("default-src 'none';")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "medattn-edge"
            assert int(headers["Content-Length"]) == len(body) > 0


def test_head_answers_without_a_body_and_nothing_else_is_allowed(node):
    with served(calm(node)) as (port, _):
        code, headers, body = ask(port, "/status.json", method="HEAD")
        assert (code, body) == (200, b"")
        assert int(headers["Content-Length"]) > 100
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            code, headers, _ = ask(port, "/", method=method)
            assert (code, headers["Allow"]) == (405, "GET, HEAD")
        assert ask(port, "/", method="GEHEIM")[0] == 501
        assert b"GEHEIM" not in ask(port, "/", method="GEHEIM")[2]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8042", "localhost", "LocalHost:8042", "[::1]:8042", "[::1]", "127.0.0.2:1"]
)
def test_a_name_of_this_machine_is_answered(node, host):
    with served(calm(node)) as (port, _):
        assert ask(port, "/ready", host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8042", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7:8042"],
)
def test_another_name_is_refused_so_that_no_foreign_page_can_read_this_one(node, host):
    with served(calm(node)) as (port, _):
        for path in PATHS:
            code, _, body = ask(port, path, host=host)
            assert (code, body) == (421, b"for this machine only\n")


def test_the_port_may_be_any_free_one_and_is_free_again_afterwards(node):
    with served(calm(node)) as (port, _):
        taken = StatusServer(Status(port=port), Watched(node), Log(io.StringIO()))
        with pytest.raises(HostError, match=rf"127\.0\.0\.1:{port}") as caught:
            taken.start()
        assert "port" in caught.value.hint
        taken.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/live")
    again = StatusServer(Status(port=port), Watched(node), Log(io.StringIO()))
    assert again.start() == port
    again.stop()
    again.stop()


def test_the_page_is_served_on_the_other_loopback_address_too(node):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(calm(node), host="::1") as (port, _):
        assert ask(port, "/ready", address="::1")[0] == 200


def test_ready_and_live_say_in_one_word_what_a_supervisor_needs(node):
    watched = all_down(node)
    with served(watched) as (port, _):
        assert ask(port, "/ready")[::2] == (503, b"disk_full\n")
        assert ask(port, "/live")[::2] == (200, b"live\n")
        watched.ready, watched.why = True, ""
        assert ask(port, "/ready")[::2] == (200, b"ready\n")


def test_status_json_has_the_fields_that_scripts_rely_on(node):
    with served(all_down(node)) as (port, _):
        found = json.loads(ask(port, "/status.json")[2])
    assert {
        *("running", "ready", "why", "started", "version", "name", "site", "draining", "workers", "models"),
        *("destinations", "associations", "disk", "time", "states", "deliveries", "objects", "bytes", "conflicts"),
        *("attempts", "delivery_retries", "stages", "recent", "quarantined", "undelivered"),
    } <= set(found)
    assert (found["running"], found["ready"], found["why"]) == (True, False, "disk_full")
    assert found["states"]["segmented"] == 9
    assert found["disk"]["refuses"] is True
    assert {"device", "ready", "busy", "pid", "restarts", "rss_mb"} <= set(found["workers"][0])
    assert {"name", "device", "artifact"} <= set(found["models"][0])
    assert {"count", "p50", "p90", "max"} == set(found["stages"]["whole"])
    one = found["undelivered"][0]
    assert {"key", "version", "state", "modality", "instances", "attempts", "reason", "detail", "times"} <= set(one)
    assert one["volumes_ml"] == VOLUMES_ML
    assert {"destination", "state", "attempts", "next_try", "accepted", "reason"} <= set(one["deliveries"][0])


def test_what_was_never_measured_is_null_and_a_stopped_node_has_a_document_too(node):
    found = document(node.store.snapshot(), None)
    assert (found["running"], found["ready"]) == (False, False)
    assert found["stages"]["whole"] == {"count": 0, "p50": None, "p90": None, "max": None}
    json.dumps(found, allow_nan=False)


def test_a_picture_is_served_and_nothing_beside_it(node):
    job = segmented(node, 1, "pacs")
    with served(Watched(node)) as (port, _):
        code, headers, body = ask(port, f"/thumbnails/{job.key}-v1.png")
        assert (code, headers["Content-Type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(body)).size == (512, 240)
        for path in (
            f"/thumbnails/{job.key}-v2.png",
            f"/thumbnails/{job.key.upper()}-v1.png",
            f"/thumbnails/{job.key}-v1.png/..",
            f"/thumbnails/../results/{job.key}/v1/seg.dcm",
            "/thumbnails/../node.sqlite",
            "/thumbnails/%2e%2e/node.sqlite",
            "/site.key",
            "//node.sqlite",
        ):
            assert ask(port, path)[0] == 404


def test_a_lost_disk_is_told_on_the_page_and_in_the_log_and_it_recovers(node):
    watched = calm(node)
    with served(watched) as (port, said):
        away = node.root.with_name("away")
        node.root.rename(away)
        code, headers, body = ask(port, "/")
        assert (code, headers["Content-Type"]) == (503, "text/html; charset=utf-8")
        assert b"cannot read its records" in body
        for path in ("/ready", "/metrics", "/status.json"):
            code, _, body = ask(port, path)
            assert code == 503
            assert str(node.root).encode() not in body
        assert ask(port, "/live")[0] == 200
        assert "status_failed" in said.getvalue()
        away.rename(node.root)
        assert ask(port, "/")[0] == 200


def test_a_damaged_database_is_told_and_does_not_end_the_server(node):
    watched = calm(node)
    for path in node.root.glob("node.sqlite*"):
        path.unlink()
    (node.root / "node.sqlite").write_bytes(b"no database at all" * 500)
    with served(watched) as (port, said):
        code, _, body = ask(port, "/")
        assert code == 503
        assert b"<code>integrity</code>" in body
        assert json.loads(said.getvalue().splitlines()[0])["code"] == "integrity"


def test_a_bug_is_logged_and_the_next_question_is_answered(node):
    class Broken(Watched):
        def health(self):
            raise RuntimeError("a bug that quotes Meier^Anna")

    watched = Broken(node)
    with served(watched) as (port, said):
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(port, "/")
        assert ask(port, "/live")[0] == 200
    [line] = said.getvalue().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["error"]) == ("status_failed", "RuntimeError")
    assert "Meier" not in line


def test_a_browser_that_goes_away_and_one_that_talks_nonsense_are_no_news(node):
    with served(many(node)) as (port, said):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(b"GET /status.json HTTP/1.1\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as odd:
            odd.sendall(b"\x16\x03\x01\x00\xa5 Meier \r\n\r\n")
            answered = b"".join(iter(lambda: odd.recv(4096), b""))
        assert b"Meier" not in answered
        assert ask(port, "/ready")[0] == 200
    assert said.getvalue() == ""


def test_many_readers_at_once_while_the_node_works_all_get_whole_answers(node):
    watched = many(node)
    failed: list[object] = []

    def read() -> None:
        for path in PATHS:
            code, headers, body = ask(port, path)
            if code != 200 or int(headers["Content-Length"]) != len(body):
                failed.append((path, code))

    with served(watched) as (port, said):
        readers = [threading.Thread(target=read) for _ in range(8)]
        for reader in readers:
            reader.start()
        for series in range(10):
            node.keep(f"meanwhile{series}", 1)
        for reader in readers:
            reader.join(60)
        assert not any(reader.is_alive() for reader in readers)
    assert failed == []
    assert said.getvalue() == ""


SECRETS = {"modality": "Geheim^Anna", "body_part": "Meierbein", "description": "Frau Meier, Anna, 1950-01-31"}


def test_nothing_that_identifies_a_patient_is_in_any_answer(node):
    for series, fate in enumerate(("receiving", "quarantined", "delivered")):
        node.keep(f"77.{series}", 1, **SECRETS)
        if fate != "receiving":
            node.pass_time(60)
            node.custody.queue_complete()
            job = node.custody.claim("worker-0")
            assert job is not None
            if fate == "quarantined":
                node.custody.quarantine(job, "missing_slice", "one of 3")
            else:
                assert node.segment(job, "pacs")
                [due] = node.store.deliveries.due()
                node.store.deliveries.record_failure(due, "no_connection")
    said = b""
    with served(Watched(node)) as (port, log):
        for path in PATHS:
            code, headers, body = ask(port, path)
            assert code == 200
            said += body + str(headers).encode()
    said += log.getvalue().encode()
    assert said.count(b"other") >= 3  # the modality that is none
    for word in ("Geheim", "Anna", "Meier", "1950", "1.2.3", "SCANNER", "2.25.1"):
        assert word.encode().lower() not in said.lower(), word
    # The other way round: the store has it all, so that the search would find it.
    kept = b"".join(path.read_bytes() for path in node.root.glob("node.sqlite*"))
    assert all(word in kept for word in (b"Geheim", b"Meierbein", b"1950", b"1.2.3", b"SCANNER", b"2.25.1"))


# A real browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def chromium(profile: Path, port: int, *options: str, path: str = "/") -> str:
    """What headless Chromium prints. It may reach this machine and nothing else."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"),
            *(*options, f"http://127.0.0.1:{port}{path}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_chromium
def test_chromium_shows_what_is_wrong_first_and_the_whole_page_after_it(node, tmp_path):
    watched = quarantine(node)
    with served(watched) as (port, _):
        shown = chromium(tmp_path / "profile", port, "--dump-dom")
    text = re.sub(r"<style>.*?</style>|<[^>]+>", "", shown, flags=re.DOTALL)
    places = [text.index(word) for word in ("Ready", "To do (4)", "missing_slice", "The latest series", "Workers")]
    assert places == sorted(places)
    assert len(re.findall(r"<tbody>", shown)) == 5
    # The first column of a row heads it: 11 series, 6 stages, 2 destinations, 2 workers, 1 result with volumes.
    assert len(re.findall(r'<th scope="row"', shown)) == 11 + 6 + 2 + 2 + 1


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_screenshot_is_legible_in_the_theme_of_the_reader_and_not_blank(node, tmp_path, theme, width):
    file, colours = tmp_path / "page.png", {"dark": DARK, "light": LIGHT}[theme]
    with served(SCENES["all_down"](node)) as (port, _):
        preferred = f"--blink-settings=preferredColorScheme={('dark', 'light').index(theme)}"
        chromium(tmp_path / "profile", port, preferred, f"--window-size={width},1400", f"--screenshot={file}")
    with Image.open(file) as image:
        seen = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}
        size = image.size
    assert size[1] == 1400
    named = {name: tuple(bytes.fromhex(colour[1:])) for name, colour in colours.items()}
    # The stylesheet was let in by the policy: the ground is ours, not a browser's.
    assert max(seen, key=lambda colour: seen[colour]) in {named["page"], named["alert"]}
    assert {named["bad"], named["alert-edge"], named["ink"], named["alert-ink"]} <= set(seen)
    letters = [count for colour, count in seen.items() if abs(sum(colour) - sum(named["page"])) > 300]
    assert sum(letters) > 2_000


@needs_chromium
def test_pictures_of_results_are_let_in_by_the_policy(node, tmp_path):
    # Chromium draws the yellow frame of the labels, which nothing else on the page has.
    watched, file = calm(node), tmp_path / "page.png"
    with served(watched) as (port, _):
        chromium(tmp_path / "profile", port, "--window-size=1280,2000", f"--screenshot={file}")
    with Image.open(file) as image:
        near = [
            count
            for count, (red, green, blue) in image.convert("RGB").getcolors(1 << 24)
            if red > 230 and 170 < green < 220 and blue < 70
        ]
    assert sum(near) > 500
