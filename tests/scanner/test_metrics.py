"""The metrics: text that Prometheus reads without a complaint, and numbers that are those of the store."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from medattn_edge.scanner.observe.metrics import text_of
from tests.support.status_scenes import SCENES, WORKERS, Watched, all_down, many, nothing_yet

# The exposition format 0.0.4, as strict as its description is.
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:{{({LABEL}(?:,{LABEL})*)}})? ([+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?))")
RESERVED = {"le", "quantile"}  # of histograms and summaries


def parsed(text):
    """{(name, labels): value} and {name: kind}. Fails on anything that the format does not allow."""
    assert text.endswith("\n")
    samples, kinds, helped = {}, {}, set()
    current = None
    for line in text[:-1].split("\n"):
        if found := re.fullmatch(rf"# HELP ({NAME}) (\S.*\S)", line):
            assert found[1] not in helped, f"a second HELP: {line}"
            helped.add(found[1])
            current = found[1]
        elif found := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            assert (found[1], found[1] in kinds) == (current, False), f"TYPE away from its HELP, or twice: {line}"
            kinds[found[1]] = found[2]
        else:
            found = SAMPLE.fullmatch(line)
            assert found, f"no sample: {line!r}"
            assert found[1] == current, f"the group of {current} holds {line!r}"
            assert found[1] in kinds, f"no TYPE before {line!r}"
            labels = re.findall(r'([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"', found[2] or "")
            assert not RESERVED & {name for name, _ in labels}
            key = (found[1], tuple(sorted(labels)))
            assert key not in samples, f"a second sample: {line!r}"
            samples[key] = float(found[3])
    assert set(kinds) == helped == {name for name, _ in samples}
    return samples, kinds


def measured(watched):
    return parsed(text_of(watched.snapshot(), watched.health()))


@pytest.mark.parametrize("scene", SCENES)
def test_the_text_follows_the_format_to_the_letter(node, scene):
    samples, kinds = measured(SCENES[scene](node))
    assert all(name.startswith("medattn_edge_") for name in kinds)
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        name for name in kinds if name.endswith("_total")
    }
    assert len(samples) > 30


@pytest.mark.parametrize("scene", SCENES)
def test_the_own_parser_of_prometheus_agrees_where_it_is_installed(node, scene):
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    watched = SCENES[scene](node)
    text = text_of(watched.snapshot(), watched.health())
    families = list(parser.text_string_to_metric_families(text))
    assert sum(len(family.samples) for family in families) == len(parsed(text)[0])


def test_the_strict_parser_of_these_tests_refuses_what_prometheus_would():
    good = '# HELP a_b Told.\n# TYPE a_b gauge\na_b{c="d"} 1\n'
    assert parsed(good)[0] == {("a_b", (("c", "d"),)): 1.0}
    for bad in (
        good[:-1],
        good.replace("# TYPE a_b gauge\n", ""),
        good.replace("a_b{", "a-b{"),
        good.replace('"d"', '"d"e"'),
        good.replace("} 1", "} one"),
        good.replace("c=", "quantile="),
        good + 'a_b{c="d"} 2\n',
        good + good,
    ):
        with pytest.raises(AssertionError):
            parsed(bad)


def test_the_numbers_are_those_of_the_store(node):
    watched = many(node)
    samples, _ = measured(watched)
    snapshot = watched.snapshot()
    assert samples[("medattn_edge_series", (("state", "delivered"),))] == 40
    assert samples[("medattn_edge_series", (("state", "queued"),))] == 4
    assert samples[("medattn_edge_deliveries", (("state", "waiting"),))] == 2
    assert samples[("medattn_edge_objects", ())] == snapshot.instances == 133
    assert samples[("medattn_edge_objects_bytes", ())] == snapshot.bytes > 0
    assert samples[("medattn_edge_attempts_total", ())] == 42
    assert samples[("medattn_edge_stage_seconds", (("stage", "whole"), ("statistic", "p50")))] == pytest.approx(
        snapshot.stages["whole"].p50
    )
    assert samples[("medattn_edge_stage_series", (("stage", "whole"),))] == 40


def test_what_is_down_is_a_zero_or_a_one_to_alert_on(node):
    samples, _ = measured(all_down(node))
    assert samples[("medattn_edge_ready", ())] == 0
    assert samples[("medattn_edge_disk_refuses", ())] == 1
    assert samples[("medattn_edge_worker_ready", (("device", "cpu"),))] == 0
    assert samples[("medattn_edge_worker_ready", (("device", "cuda:0"),))] == 1
    assert samples[("medattn_edge_worker_restarts_total", (("device", "cpu"),))] == 17
    assert samples[("medattn_edge_deliveries", (("state", "dead"),))] == 1
    assert samples[("medattn_edge_delivery_failures", ())] == 20


def test_a_time_that_nobody_has_measured_is_absent_and_not_zero(node):
    samples, _ = measured(nothing_yet(node))
    assert not [name for name, _ in samples if name == "medattn_edge_stage_seconds"]
    assert samples[("medattn_edge_stage_series", (("stage", "whole"),))] == 0


def test_a_label_may_hold_quotes_and_backslashes(node):
    odd = replace(WORKERS[0], device='a "b" \\ c\nd')
    samples, _ = measured(Watched(node, workers=(odd,)))
    assert ("medattn_edge_worker_ready", (("device", r"a \"b\" \\ c\nd"),)) in samples


def test_every_state_has_a_sample_before_anything_has_happened(node):
    samples, _ = measured(nothing_yet(node))
    states = {dict(labels)["state"] for name, labels in samples if name == "medattn_edge_series"}
    assert {"receiving", "queued", "running", "segmented", "delivered", "failed", "quarantined"} <= states
