"""Which rewrites are chosen: what every runtime starts from, and how a choice is changed."""

from __future__ import annotations

import json

import pytest

from medattn_edge.backends.compiler import compilers
from medattn_edge.errors import UsageError
from medattn_edge.exporters import exporters
from medattn_edge.rewrites import ALWAYS_GOOD, changed, defaults, rewrite_network, rewrites
from medattn_edge.rewrites.cost import cost


def test_every_exporter_and_every_compiler_has_its_defaults():
    for runtime in (*exporters(), *compilers()):
        names = defaults(runtime, (256, 256))
        assert "batch-norm" in names
        assert list(names) == [name for name in rewrites() if name in names]
    with pytest.raises(UsageError, match=r"'tvm'(.|\n)*onnx"):
        defaults("tvm", (256, 256))


def test_position_attention_is_computed_in_blocks_where_its_weights_would_not_fit():
    assert set(defaults("onnx", (256, 256))) == ALWAYS_GOOD
    assert set(defaults("onnx", (264, 256))) == {*ALWAYS_GOOD, "position-blocks"}
    assert set(defaults("onnx", (96, 96, 96))) == ALWAYS_GOOD


def test_a_choice_is_changed_with_what_a_rewrite_needs_and_what_needs_it():
    assert changed(("scalar-prelu",)) == ("scalar-prelu",)
    assert changed(("scalar-prelu",), ["position-blocks"]) == ("position-attention", "position-blocks", "scalar-prelu")
    assert changed(("batch-norm", "gate-outputs", "linear-heads"), left_out=["batch-norm"]) == ("linear-heads",)
    assert changed(("batch-norm",), left_out=["scalar-prelu"]) == ("batch-norm",)


@pytest.mark.parametrize(
    ("name", "other"), [("position-sdpa", "position-blocks"), ("position-blocks", "position-sdpa")]
)
def test_one_that_is_added_takes_the_place_of_what_it_excludes(name, other):
    assert changed(("position-attention", other), [name]) == ("position-attention", name)
    with pytest.raises(UsageError, match="exclude each other"):
        changed((), [name, other])


def test_a_change_that_contradicts_itself_is_refused():
    with pytest.raises(UsageError, match="scalar-prelu is added"):
        changed((), ["scalar-prelu"], ["scalar-prelu"])
    with pytest.raises(UsageError, match="position-blocks is added"):
        changed((), ["position-blocks"], ["position-attention"])
    with pytest.raises(UsageError, match=r"batch-nrom(.|\n)*-> batch-norm"):
        changed((), (), ["batch-nrom"])


@pytest.mark.parametrize("form", ["attention-unet-2d"], indirect=True)
def test_what_was_done_is_plain_json_with_what_it_cost_before_and_after(form, network):
    spec = form.spec(network)
    rewritten = rewrite_network(network, None, spec)
    assert (rewritten.before, rewritten.after) == (cost(network, spec), cost(rewritten.network, spec))
    told = json.loads(json.dumps(rewritten.rewrites))
    assert [one["name"] for one in told] == ["batch-norm", "nearest-upsampling", "concat-sums"]
    assert [one["sites"] for one in told] == [len(step.sites) for step in rewritten.plan]
    assert rewritten.after.gflop == pytest.approx(rewritten.before.gflop - sum(one["gflop_saved"] for one in told))
    assert rewrite_network(network).before is None
