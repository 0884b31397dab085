"""One catalogue says why a series is refused; everything that shows a reason takes its words from it."""

from __future__ import annotations

import ast
import re

import pytest

from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.reasons import SERIES_REASONS, Reason, catalogue
from tests.support import ROOT


def test_two_reasons_with_one_code_are_an_error():
    with pytest.raises(ValueError, match="two reasons have the code hung"):
        catalogue([Reason("hung", "a", "b"), Reason("hung", "c", "d")])


@pytest.mark.parametrize("reason", SERIES_REASONS.values(), ids=lambda reason: reason.code)
def test_a_reason_is_a_code_one_clause_and_an_action(reason):
    assert re.fullmatch("[a-z]+(_[a-z]+)*", reason.code)
    for text in (reason.meaning, reason.action):
        assert text == text.strip()
        assert not re.search(r"[.:;]$|: |; ", text), "the page and the commands join the two with signs of their own"
    assert not reason.requeue, "the same files give the same answer"


def raised() -> set[str]:
    """Every text that stands where a RefusedSeries, or a Header's, takes its code."""
    calls = (node for path in ROOT.glob("medattn_edge/io/**/*.py") for node in ast.walk(ast.parse(path.read_text())))
    codes = set()
    for call in calls:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "RefusedSeries":
            codes |= {one.value for one in ast.walk(call.args[0]) if isinstance(one, ast.Constant)}
    return codes


def test_every_code_that_is_raised_is_known():
    codes = {code for code in raised() if re.fullmatch("[a-z_]+", str(code))}
    assert len(codes) > 15
    assert codes <= set(SERIES_REASONS)


def test_the_error_of_a_refused_series_says_what_the_catalogue_says():
    known = SERIES_REASONS["gantry_tilt"]
    error = RefusedSeries("gantry_tilt", "it leans by 12.0 degrees")
    assert known.meaning in error.message
    assert "it leans by 12.0 degrees" in error.message
    assert error.hint == known.action
    assert RefusedSeries("gantry_tilt", "it leans", hint="ask the site").hint == "ask the site"
