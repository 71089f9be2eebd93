"""`paper` follows the lists; `clean` trains on no scan that a test holds, whatever it is called."""

import numpy as np
import pytest

from dsmseg.datasets.fingerprint import fingerprint
from dsmseg.datasets.protocols import choose_cases
from dsmseg.datasets.splits import assignments, parts
from dsmseg.datasets.store import CaseRecord, Settings, Store, as_rows, write_case

TEST_SETS = ("btcv", "lits", "kits19", "msd_lung", "msd_pancreas", "msd_hepatic_vessel", "msd_colon")


def scan(seed):
    """A scan's content: smooth noise, which is like no other's."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 300, (12, 12, 12))
    return np.kron(coarse, np.ones((2, 2, 2)))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", Settings())


@pytest.fixture
def put(store):
    """Put a case with the given content into the store."""

    def put(dataset, case, content):
        folder = store.case_folder(dataset, case)
        folder.mkdir(parents=True)
        record = CaseRecord(
            dataset=dataset,
            case=case,
            sources=(),
            description="",
            shape=(4, 4, 4),
            affine=as_rows(np.eye(4)),
            own_shape=(4, 4, 4),
            own_affine=as_rows(np.eye(4)),
            placing="header",
            sets=((),),
            annotated=(6,),
            merged=(),
            voxels={6: 0},
            body_ml=0.0,
            hu={},
        )
        nothing = np.zeros((4, 4, 4), np.int16)
        write_case(
            folder,
            record,
            image=nothing,
            codes=nothing.astype(np.uint8),
            locations={},
            fingerprint=fingerprint(content),
        )

    return put


def names(choice):
    return [one.name for one in choice.cases]


def first(dataset, part, protocol="paper"):
    return next(case for (name, case), its in parts(protocol).items() if name == dataset and its == part)


def test_the_paper_s_protocol_is_the_lists(store, put) -> None:
    for seed, (dataset, part) in enumerate((("lits", "training"), ("lits", "testing"), ("word", "training"))):
        put(dataset, first(dataset, part), scan(seed))
    put("my_own", "1", scan(9))
    assert names(choose_cases(store, "paper", "testing")) == [f"lits/{first('lits', 'testing')}"]
    both = choose_cases(store, "paper", "training", stage=2)
    assert names(both) == [f"lits/{first('lits', 'training')}", f"word/{first('word', 'training')}"]
    assert names(choose_cases(store, "paper", "training", stage=1)) == [f"word/{first('word', 'training')}"]


def test_clean_leaves_out_what_its_content_shows_to_be_a_test_scan(store, put) -> None:
    tested, own, other = first("lits", "testing"), first("word", "training"), "word_0002"
    put("lits", tested, scan(0))
    put("word", own, scan(0)[::-1].transpose(1, 0, 2))  # the same scan, mirrored and turned
    put("word", other, scan(1))
    choice = choose_cases(store, "clean", "training", stage=1)
    assert names(choice) == [f"word/{other}"]
    assert dict(choice.left_out["word"]) == {"is a copy of one in lits": 1}
    assert f"word/{own}" in names(choose_cases(store, "paper", "training", stage=1))


def test_copies_within_the_training_stay(store, put) -> None:
    put("word", "word_0001", scan(0))
    put("amos22", first("amos22", "training"), scan(0))
    assert len(choose_cases(store, "clean", "training").cases) == 2


def test_clean_takes_nothing_of_a_set_whose_hidden_test_scans_cannot_be_compared(store, put) -> None:
    case = first("abdomenct_1k", "training", "clean")
    put("abdomenct_1k", case, scan(0))
    choice = choose_cases(store, "clean", "training", stage=1)
    assert names(choice) == []
    ((reason, count),) = choice.left_out["abdomenct_1k"].items()
    assert "not in the store" in reason
    assert count == 1


@pytest.mark.slow
def test_clean_takes_such_a_set_when_all_tests_are_there_and_finds_the_copies(store, put) -> None:
    tests = [key for key, part in parts("clean").items() if part != "training" and key[0] in TEST_SETS]
    for seed, (dataset, case) in enumerate(tests):
        put(dataset, case, scan(1000 + seed))
    candidates = [
        case for (name, case), part in parts("clean").items() if name == "abdomenct_1k" and part == "training"
    ]
    pancreas = next(index for index, key in enumerate(tests) if key[0] == "msd_pancreas")
    put("abdomenct_1k", candidates[0], scan(1000 + pancreas))
    put("abdomenct_1k", candidates[1], scan(1))
    choice = choose_cases(store, "clean", "training", stage=1)
    assert names(choice) == [f"abdomenct_1k/{candidates[1]}"]
    assert dict(choice.left_out["abdomenct_1k"]) == {"is a copy of one in msd_pancreas": 1}


def test_scans_known_by_their_ids_are_off_the_clean_list() -> None:
    tested = {one.case for one in assignments() if one.dataset == "lits" and one.paper == "testing"}
    rows = {one.case: one for one in assignments() if one.dataset == "ct_org"}
    for case in tested:
        assert rows[case].paper == "training"
        assert rows[case].clean == ""
        assert rows[case].why == f"is lits {case}"


def test_no_label_of_the_four_unseen_kinds_is_in_any_training() -> None:
    unseen = {"msd_lung", "msd_pancreas", "msd_hepatic_vessel", "msd_colon"}
    for protocol in ("paper", "clean"):
        assert {part for (dataset, _), part in parts(protocol).items() if dataset in unseen} == {"inference"}
