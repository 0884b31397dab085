"""The page: what is wrong comes first and says what to do, nothing is fetched, and everybody can read it."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from medattn_edge.errors import InputError
from medattn_edge.reasons import DELIVERY_REASONS, JOB_REASONS, SERIES_REASONS
from medattn_edge.scanner.observe.messages import UNKNOWN, of_delivery, of_health, of_quarantine
from medattn_edge.scanner.observe.page import page_of, page_without_records
from medattn_edge.scanner.observe.style import DARK, GROUNDS, LETTERS, LIGHT, PILLS, STYLE
from medattn_edge.scanner.store.disk import Disk
from tests.support.status_scenes import SCENES, WORKERS, Watched, all_down, calm, many, nothing_yet, quarantine, running

VOID = {"meta", "img", "br", "hr", "link", "input"}
PARTS = ["actions", "series", "times", "deliveries", "workers", "disk", "volumes", "results"]


class Page(HTMLParser):
    """The parts of a page; fails on a tag that is not closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.ids = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def shown(watched, **options):
    snapshot = watched.snapshot()
    pictures = {(one.key, one.version) for one in snapshot.recent if watched.thumbnail(one.key, one.version)}
    return page_of(snapshot, watched.health(), pictures, **options)


@pytest.mark.parametrize("scene", SCENES)
def test_the_page_is_well_formed_and_in_the_order_of_what_matters_at_night(node, scene):
    page = Page(shown(SCENES[scene](node)))
    assert page.ids == [part for part in PARTS if part in page.ids]
    assert set(PARTS) - {"volumes", "results"} <= set(page.ids)
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_is_fetched_from_elsewhere_and_nothing_runs(node, scene):
    page = Page(shown(SCENES[scene](node)))
    assert not {"script", "iframe", "object", "link", "form", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert re.fullmatch(r"/[a-z0-9/.?=-]*", attributes.get(name, "/"))
    assert "url(" not in STYLE
    assert "@import" not in STYLE


@pytest.mark.parametrize("scene", SCENES)
def test_a_screen_reader_is_told_what_every_table_and_picture_is(node, scene):
    page = Page(shown(SCENES[scene](node)))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes["aria-labelledby"] in page.ids for attributes in page.all("section"))
    # What can be scrolled can be reached by keyboard.
    scrolled = [attributes for attributes in page.all("div") if attributes.get("class") == "wide"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in scrolled)


def luminance(colour):
    colour = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = [int(colour[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
def test_every_colour_of_letters_stands_out_from_every_background_it_may_lie_on(theme):
    colours = {name: colour.removeprefix("#") for name, colour in theme.items()}
    assert contrast("fff", "000") == pytest.approx(21)
    for letter, ground in itertools.product(LETTERS, GROUNDS):
        assert contrast(colours[letter], colours[ground]) >= 4.5, (letter, ground)
    for pill in PILLS:
        assert contrast(colours["pill-ink"], colours[pill]) >= 4.5, pill
    for edge, ground in (("alert-edge", "alert"), ("calm-edge", "calm")):  # what is no letter needs less: WCAG 1.4.11
        assert contrast(colours[edge], colours[ground]) >= 3, edge


def test_every_colour_is_one_of_a_theme_and_both_themes_have_it():
    rules = STYLE.split("}}", 1)[1]
    assert set(re.findall(r"#[0-9a-f]{3,6}", rules)) == {"#000"}  # behind pictures, which are dark in any light
    used = set(re.findall(r"var\(--([a-z-]+)\)", rules))
    assert used == set(DARK) == set(LIGHT)
    letters = set(re.findall(r"[{;]color:var\(--([a-z-]+)\)", rules))
    grounds = set(re.findall(r"background:var\(--([a-z-]+)\)", rules))
    assert letters == {*LETTERS, "pill-ink"}
    assert grounds == {*GROUNDS, *PILLS}


# What is wrong


def test_a_node_that_does_well_says_so_and_asks_for_nothing(node):
    page = Page(shown(calm(node)))
    assert "All is well" in page.text
    assert "What to do" not in page.text
    assert "<title>Ready: reading-room-2</title>" in shown(Watched(node))


def test_everything_that_is_down_is_told_at_once_the_worst_first(node):
    text = Page(shown(all_down(node))).text
    told = ["To do (6)", "disk_full", "3.2 of 500.0 GB", "worker_not_ready", "Not ready: cpu", "given up"]
    told += ["calling_title_unknown", "out_of_memory", "8 results waiting for pacs", "no_connection", "folder_missing"]
    places = [text.index(word) for word in told]
    assert places == sorted(places)
    assert text.index("folder_missing") < text.index("The latest series")
    assert "and 3 more" in text


def test_a_node_that_starts_or_ends_asks_nobody_to_do_anything(node):
    for why in ("starting", "draining"):
        page = Page(shown(replace(nothing_yet(node), why=why)))
        assert "Just now" in page.text
        assert why in page.text
        assert "To do" not in page.text


def test_a_full_disk_is_told_even_when_another_reason_comes_first(node):
    full = Disk(500_000_000_000, 1_000_000_000, refuses=True)
    text = Page(shown(Watched(node, ready=False, why="worker_not_ready", disk=full))).text
    assert text.index("worker_not_ready") < text.index("disk_full")


def test_series_with_one_reason_are_one_trouble_and_the_command_can_be_copied(node):
    watched = quarantine(node)
    text = Page(shown(watched)).text
    assert "7 series in quarantine missing_slice" in text
    assert text.count("12.5 mm between slices 17 and 18") == 5
    crashed = next(one for one in watched.snapshot().quarantined if one.reason == "crashed")
    command = f"medattn-edge node requeue {crashed.key} --config '/etc/medattn edge/node.toml'"
    assert command in text
    assert shlex.split(command)[-1] == watched.config


def test_a_command_that_would_be_refused_is_not_offered(node):
    node.custody.quarantine(running(node, "other"), "missing_slice")
    assert "requeue" not in Page(shown(Watched(node))).text
    node.custody.quarantine(running(node, "again"), "crashed")
    assert "requeue" in Page(shown(Watched(node))).text


def test_where_nobody_said_which_configuration_the_command_says_file(node):
    node.custody.quarantine(running(node, 1), "crashed")
    assert "--config FILE" in Page(shown(Watched(node))).text


def test_more_in_quarantine_than_are_listed_are_counted(node):
    for series in range(103):
        node.keep(series, 1)
    node.pass_time(60)
    node.custody.queue_complete()
    while (job := node.custody.claim("worker-0")) is not None:
        node.custody.quarantine(job, "localizer")
    text = Page(shown(Watched(node))).text
    assert "100 series in quarantine localizer" in text
    assert "3 more in quarantine are not listed" in text


def every_error(kind):
    """The codes of errors that a node may meet: it asks no archive, and those of a cohort are told in its own table."""
    elsewhere = ("medattn_edge.cohort", "medattn_edge.io.dicomweb")
    mine = set() if kind.__module__.startswith(elsewhere) else {kind.code}
    return mine | {code for below in kind.__subclasses__() for code in every_error(below)}


def test_every_reason_has_words_and_something_to_do():
    stored = {*SERIES_REASONS, *JOB_REASONS, *every_error(InputError)}
    shown_reasons = [of_quarantine(code) for code in stored] + [of_delivery(code) for code in DELIVERY_REASONS]
    shown_reasons += [of_health(code) for code in ("starting", "worker_not_ready", "disk_full", "draining")]
    assert len(shown_reasons) > 60
    for reason in shown_reasons:
        assert reason.meaning not in ("", UNKNOWN)
        assert reason.action


def test_a_reason_of_a_later_version_is_shown_as_it_is(node):
    node.custody.quarantine(running(node, 1), "from_the_future")
    text = Page(shown(Watched(node, ready=False, why="odd"))).text
    assert "from_the_future" in text
    assert text.count("no words for") == 2


# The rest


def test_the_page_shows_series_times_deliveries_workers_disk_and_pictures(node):
    page = Page(shown(many(node)))
    for word in ("delivered", "so far", "at pacs, folder", "segmenting", "vessels (engine)", "2,048 MB", "133 objects"):
        assert word in page.text
    assert len(page.all("img")) == 4
    assert re.fullmatch(r"/thumbnails/[0-9a-f]{32}-v1\.png", page.all("img")[0]["src"])


def test_a_result_without_a_picture_has_none_on_the_page(node):
    watched = calm(node)
    for path in node.spool.results.rglob("overlay.png"):
        path.unlink()
    assert Page(shown(watched)).all("img") == []


def test_every_label_of_a_result_has_its_volume_and_a_small_one_is_not_nothing(node):
    page = Page(shown(calm(node)))
    assert page.text.count("right_lung 2,345.7 ml, left_lung 2,101.0 ml, nodule 0.0421 ml, spine 0.0 ml") == 3
    assert node.segment(node.job("kept no volumes yet"))
    assert Page(shown(Watched(node))).text.count("right_lung") == 3


def test_a_destination_that_is_no_longer_configured_still_shows_what_it_lacks(node):
    watched = replace(all_down(node), destinations=("folder",))
    assert "pacs" in Page(shown(watched)).text


def test_the_page_refreshes_without_scripts_and_can_be_told_to_stand_still(node):
    watched = calm(node)
    assert [one["content"] for one in Page(shown(watched)).all("meta") if one.get("http-equiv") == "refresh"] == ["10"]
    still = Page(shown(watched, refresh=False))
    assert not [one for one in still.all("meta") if one.get("http-equiv")]
    assert "/?refresh=off" in {one["href"] for one in Page(shown(watched)).all("a")}
    assert "/" in {one["href"] for one in still.all("a")}


def test_names_of_the_configuration_cannot_become_markup(node):
    name = '<img src=x onerror=alert(1)>"&'
    odd = replace(WORKERS[0], device=name)
    for text in (
        shown(Watched(node, name=name, destinations=(name,), workers=(odd,), ready=False, why=name, config=name)),
        page_without_records(name),
    ):
        page = Page(text)
        assert page.all("img") == []
        assert name in page.text


def test_the_page_of_a_node_that_cannot_read_its_records_says_so_and_tries_again():
    page = Page(page_without_records("integrity"))
    assert "cannot read its records" in page.text
    assert "What to do" in page.text
    assert [one for one in page.all("meta") if one.get("http-equiv") == "refresh"]
