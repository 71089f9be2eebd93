"""Cases with their labels, of a store or of folders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stores import LIVER, LIVER_TUMOR, store_case
from small_trees import small_body, write_btcv

from dsmseg.datasets.labelled import PreparedCase, labelled_cases, spread, stored_cases
from dsmseg.datasets.store import Settings, Store
from dsmseg.errors import InputError
from dsmseg.taxonomy import find

HEAD = "dataset,case,official,paper,clean,supervised,why,stages"


def test_a_case_of_a_data_set_has_its_scan_and_its_classes_on_the_scans_grid(tmp_path):
    cases = labelled_cases(write_btcv(tmp_path / "btcv", ["0001", "0002"]))
    assert [one.name for one in cases] == ["btcv/0001", "btcv/0002"]
    read = cases[0].read()
    hu, labels = small_body(1)
    assert np.array_equal(read.image.array, hu)
    assert np.array_equal(read.labels.mask(find("liver").id), labels == 6)


def test_a_prepared_case_has_what_the_store_holds(tmp_path):
    stored = store_case(tmp_path, merged=((2, 3),))
    read = PreparedCase(stored).read()
    assert np.array_equal(read.image.array, stored.image[:])
    assert np.array_equal(read.image.affine, np.array(stored.record.affine))
    for one in (LIVER, LIVER_TUMOR):
        assert np.array_equal(read.labels.mask(one), stored.mask(one))
    assert (read.labels.annotated, read.labels.merged) == (stored.record.annotated, ((2, 3),))


def test_of_a_store_the_cases_for_validation_are_taken_and_their_lack_is_told(tmp_path):
    Store.create(tmp_path / "store", Settings())
    for number in "123":
        store_case(tmp_path / "store", case=number)
    splits = tmp_path / "splits.csv"
    splits.write_text("\n".join([HEAD, "lits,1,,training,training,,,2", "lits,3,,validation,validation,,,2", ""]))
    assert [one.name for one in stored_cases(tmp_path / "store", splits=splits)] == ["lits/3"]
    splits.write_text("\n".join([HEAD, "lits,1,,training,training,,,2", ""]))
    with pytest.raises(InputError, match="no case for validation"):
        stored_cases(tmp_path / "store", splits=splits)


@given(st.integers(1, 50), st.integers(1, 60))
def test_cases_are_spread_evenly_over_their_order(count, wanted):
    chosen = spread(list(range(count)), wanted)
    assert len(chosen) == len(set(chosen)) == min(count, wanted)
    assert chosen == sorted(chosen)
    if wanted < count:
        gaps = np.diff([-1, *chosen, count])
        assert gaps.max() <= 2 * -(-count // wanted)
