"""Errors travel: what a process pool's user catches is what was raised, with all that it says."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import medattn_edge
from medattn_edge.cohort import CaseError
from medattn_edge.errors import MedattnError, MissingDependency
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError
from medattn_edge.reasons import ARCHIVE_REASONS, COHORT_REASONS, DELIVERY_REASONS, SERIES_REASONS
from medattn_edge.scanner.deliver.send import DeliveryRefused
from tests.support.raising import refuse


def import_everything() -> None:
    """Every module of the library, so that every error class is there; main modules do nothing on import."""
    for module in pkgutil.walk_packages(medattn_edge.__path__, "medattn_edge."):
        if not module.name.startswith("medattn_edge.cli"):
            importlib.import_module(module.name)


def below(kind: type[MedattnError]) -> set[type[MedattnError]]:
    return {kind}.union(*(below(one) for one in kind.__subclasses__()))


@pytest.fixture(scope="module")
def kinds() -> list[type[MedattnError]]:
    import_everything()
    ours = (one for one in below(MedattnError) if one.__module__.startswith("medattn_edge."))
    return sorted(ours, key=lambda kind: kind.__name__)


def example(kind: type[MedattnError]) -> MedattnError:
    """One with every argument of its own constructor given, as far as a text or a number can be one."""
    # Whose first argument is the code of a reason, and of which catalogue.
    reasons = {RefusedSeries: SERIES_REASONS, DeliveryRefused: DELIVERY_REASONS, CaseError: COHORT_REASONS}
    reasons |= dict.fromkeys((ArchiveError, ArchiveDataError), ARCHIVE_REASONS)
    values = {"int": 7, "int | None": 7, "float": 0.5, "bool": True}
    arguments, options = [], {}
    for name, parameter in inspect.signature(kind).parameters.items():
        value = values.get(str(parameter.annotation), f"the {name}")
        if name == "reason" and kind in reasons:
            value = next(iter(reasons[kind]))
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[name] = value
        else:
            arguments.append(value)
    return kind(*arguments, **options)


def assert_same(one: BaseException, other: MedattnError) -> None:
    assert type(one) is type(other)
    assert one.args == other.args
    assert vars(one) == vars(other)
    assert {"found", "expected", "hint"} <= set(vars(one))
    assert str(one) == str(other)
    assert (one.exit_code, one.code, one.message) == (other.exit_code, other.code, other.message)


def test_the_tree_is_whole(kinds):
    names = {kind.__name__ for kind in kinds}
    assert {"MedattnError", "UsageError", "OutputError", "RefusedSeries", "GpuLost", "WorkerLost"} <= names


def test_every_error_is_the_same_after_pickling_and_copying(kinds):
    for error in map(example, kinds):
        assert str(error)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert_same(pickle.loads(pickle.dumps(error, protocol)), error)
        assert_same(copy.copy(error), error)
        assert_same(copy.deepcopy(error), error)


def test_an_error_keeps_what_was_added_to_it():
    error = RefusedSeries("missing_slice", "1 missing")
    error.add_note("in the third folder")
    travelled = pickle.loads(pickle.dumps(error))
    assert travelled.__notes__ == ["in the third folder"]
    copied = copy.deepcopy(error)
    copied.add_note("of the second disk")
    assert error.__notes__ == ["in the third folder"]


def test_an_error_comes_out_of_a_process_pool_as_it_was_raised():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(RefusedSeries) as refused:
            pool.submit(refuse, "gantry_tilt").result(timeout=60)
        with pytest.raises(MissingDependency) as missing:
            pool.submit(refuse, "").result(timeout=60)
    assert_same(refused.value, RefusedSeries("gantry_tilt", "found in another process"))
    assert (refused.value.reason, refused.value.detail) == ("gantry_tilt", "found in another process")
    assert_same(missing.value, MissingDependency.of_extra("nrrd", "nrrd"))
