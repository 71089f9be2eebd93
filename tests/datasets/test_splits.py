"""The lists in splits.csv are what their seed draws, and as many as Table 1 says where the public data allow."""

import csv
import io
import re
from collections import Counter, defaultdict
from dataclasses import fields, replace
from importlib.resources import files
from random import Random

import pytest

from dsmseg.datasets.description import by_name, packaged
from dsmseg.datasets.splits import Assignment, as_csv, assignments, counts, draw, parts, published_cases

PARTS = ("", "training", "testing", "inference")
UNSEEN = ("msd_lung", "msd_pancreas", "msd_hepatic_vessel", "msd_colon")
# Table 1 (training, testing, inference), and what the public data allow of it.
TABLE_1 = {
    "btcv": ((20, 30, 0), (12, 18, 0)),  # 30 have labels; split 40 : 60
    "chaos": ((40, 0, 0), (20, 0, 0)),  # 20 CT have labels
    "pancreas_ct": ((60, 0, 0), (60, 0, 0)),
    "ct_org": ((140, 0, 0), (140, 0, 0)),
    "word": ((150, 0, 0), (150, 0, 0)),
    "amos22": ((280, 0, 0), (280, 0, 0)),
    "totalsegmentator": ((998, 0, 0), (998, 0, 0)),
    "abdomenct_1k": ((1000, 0, 0), (1000, 0, 0)),
    "lits": ((52, 79, 0), (52, 79, 0)),
    "kits19": ((120, 180, 0), (84, 126, 0)),  # 210 have labels; split 40 : 60
    "msd_lung": ((0, 0, 63), (0, 0, 63)),
    "msd_pancreas": ((0, 0, 281), (0, 0, 281)),
    "msd_hepatic_vessel": ((0, 0, 303), (0, 0, 303)),
    "msd_colon": ((0, 0, 126), (0, 0, 126)),
}


@pytest.fixture(scope="module")
def by_dataset():
    found = defaultdict(list)
    for one in assignments():
        found[one.dataset].append(one)
    return found


def bare(rows):
    return [Assignment(one.dataset, one.case, one.official) for one in rows]


def test_the_stored_lists_are_what_is_drawn_anew_byte_for_byte():
    stored = files("dsmseg.datasets").joinpath("splits.csv").read_text(encoding="utf-8")
    assert as_csv(draw(bare(assignments()), packaged())) == stored


def test_the_draw_depends_on_nothing_but_which_scans_there_are():
    shuffled = bare(assignments())
    Random(1).shuffle(shuffled)
    assert set(draw(shuffled, packaged())) == set(assignments())
    # Parts that were given before make no difference.
    turned = [replace(one, paper="testing", clean="testing", supervised="testing", why="?") for one in assignments()]
    assert draw(turned, packaged()) == assignments()


def test_another_scan_moves_none_but_the_one_whose_place_it_takes():
    more = [*bare(assignments()), Assignment("amos22", "amos_0999")]
    before = {(one.dataset, one.case): one for one in assignments()}
    moved = [one for one in draw(more, packaged()) if before.get((one.dataset, one.case), one) != one]
    assert len(moved) <= 1
    assert all(one.dataset == "amos22" and one.paper == "" for one in moved)


def test_rows_come_back_from_csv_as_they_were():
    rows = csv.DictReader(io.StringIO(as_csv(assignments())))
    assert tuple(Assignment(**row) for row in rows) == assignments()
    assert rows.fieldnames == [one.name for one in fields(Assignment)]


def test_each_scan_has_one_row_and_parts_that_there_are():
    assert len({(one.dataset, one.case) for one in assignments()}) == len(assignments())
    for one in assignments():
        assert {one.paper, one.clean, one.supervised} <= set(PARTS)
        assert one.official in ("", "train", "val", "test")


@pytest.mark.parametrize("one", packaged(), ids=lambda one: one.name)
def test_as_many_cases_are_listed_as_are_published_and_all_could_be_found(one, by_dataset):
    cases = published_cases(one.name)
    assert cases == tuple(row.case for row in by_dataset[one.name])
    assert len(cases) == one.published
    assert all(re.fullmatch(one.layout.case, case) for case in cases)
    assert not set(one.withdrawn) & set(cases)


def test_no_row_is_of_an_unknown_data_set(by_dataset):
    assert set(by_dataset) == {one.name for one in packaged()}
    assert published_cases("own") == ()


@pytest.mark.parametrize("name", list(TABLE_1))
def test_the_paper_s_counts_are_followed_as_far_as_the_data_allow(name):
    role = by_name(name).table_1
    written, allowed = TABLE_1[name]
    assert (role.training, role.testing, role.inference) == written
    found = counts("paper")[name]
    assert tuple(found.get(part, 0) for part in PARTS[1:]) == allowed


def test_data_sets_outside_of_table_1_have_no_part(by_dataset):
    outside = {one.name for one in packaged()} - set(TABLE_1)
    assert outside == {"msd_liver", "msd_spleen"}
    for name in outside:
        assert {(one.paper, one.clean, one.supervised) for one in by_dataset[name]} == {("", "", "")}


def test_clean_is_paper_without_what_a_test_holds():
    for one in assignments():
        if one.why:
            assert (one.paper, one.clean) == ("training", "")
        else:
            assert one.clean == one.paper


@pytest.mark.parametrize("protocol", ["paper", "clean", "supervised"])
def test_no_case_is_in_two_parts(protocol):
    rows = Counter((one.dataset, one.case) for one in assignments() if getattr(one, protocol))
    assert set(rows.values()) == {1}


def test_no_scan_of_clean_that_is_trained_on_is_tested_on_under_another_name():
    assigned = parts("clean")
    trained = {key for key, part in assigned.items() if part == "training"}
    tested = {key for key, part in assigned.items() if part in ("testing", "inference")}
    pairs = 0
    for one in packaged():
        for held in one.holds:
            for own, other in held.pairs:
                pairs += 1
                assert not ((one.name, own) in trained and (held.dataset, other) in tested)
                assert not ((one.name, own) in tested and (held.dataset, other) in trained)
    assert pairs == 131 + 22 + 131


def test_clean_takes_no_test_scan_of_lits_from_ct_org():
    assigned = parts("clean")
    tested = {case for (dataset, case), part in assigned.items() if (dataset, part) == ("lits", "testing")}
    trained = {case for (dataset, case), part in assigned.items() if (dataset, part) == ("ct_org", "training")}
    assert len(tested) == 79
    assert len(trained) == 140 - 79
    assert not tested & trained
    # The two data sets number the same scans alike, up to 130; 131 to 139 are CT-ORG's own.
    assert {str(number) for number in range(131, 140)} <= trained
    reasons = {one.case: one.why for one in assignments() if one.dataset == "ct_org" and one.why}
    assert reasons == {case: f"is lits {case}" for case in tested}


def test_the_official_test_of_totalsegmentator_is_never_trained_on(by_dataset):
    rows = by_dataset["totalsegmentator"]
    official = Counter(one.official for one in rows)
    assert official == {"train": 1082, "val": 57, "test": 89}
    for one in rows:
        if one.official == "test":
            assert (one.paper, one.clean) == ("", "")


def test_the_supervised_comparison_splits_the_four_unseen_tasks_into_652_and_121(by_dataset):
    found = {name: Counter(one.supervised for one in by_dataset[name]) for name in UNSEEN}
    assert sum(one["training"] for one in found.values()) == 652
    assert sum(one["testing"] for one in found.values()) == 121
    assert {one.dataset for one in assignments() if one.supervised} == set(UNSEEN)
    for name, one in found.items():
        size = len(by_dataset[name])
        assert one["training"] + one["testing"] == size
        # Shared out by size: no task has a whole scan more or less than its share.
        assert abs(one["testing"] - 121 * size / 773) < 1


def test_counts_count_the_parts():
    for protocol in ("paper", "clean"):
        total = Counter()
        for one in counts(protocol).values():
            total.update(one)
        assert sum(total.values()) == len(parts(protocol))
    assert sum(one.get("inference", 0) for one in counts("clean").values()) == 773


@pytest.mark.parametrize("official", ["", "test"])
@pytest.mark.parametrize("name", list(TABLE_1))
def test_one_more_scan_of_any_data_set_changes_the_part_of_one_other_at_most(name, official, by_dataset):
    rows = by_dataset[name]
    before = {one.case: one.paper for one in rows}
    for number in range(5):
        new = Assignment(name, f"new{number}", official)
        after = {one.case: one.paper for one in draw([*bare(rows), new], [by_name(name)])}
        assert after.keys() == before.keys() | {new.case}
        changed = [case for case, part in before.items() if after[case] != part]
        assert len(changed) <= 1, f"{len(changed)} scans change their part"


@pytest.mark.parametrize("seed", range(3))
def test_in_whatever_order_scans_and_descriptions_come_the_parts_are_the_same(seed):
    rows, descriptions = bare(assignments()), list(packaged())
    Random(seed).shuffle(rows)
    Random(seed).shuffle(descriptions)
    assert set(draw(rows, descriptions)) == set(assignments())


def test_the_rank_of_a_scan_is_its_own():
    # Without any one of the scans that train, those that trained still do.
    for name in ("btcv", "kits19", "pancreas_ct", "amos22"):
        rows = [one for one in assignments() if one.dataset == name]
        trained = {one.case for one in rows if one.paper == "training"}
        for gone in rows[:: max(1, len(rows) // 10)]:
            left = draw(bare(one for one in rows if one != gone), [by_name(name)])
            assert trained - {gone.case} <= {one.case for one in left if one.paper == "training"}


@pytest.mark.parametrize("protocol", ["paper", "clean"])
def test_no_data_set_trains_on_a_scan_that_it_tests_on(protocol):
    of_part = defaultdict(set)
    for key, part in parts(protocol).items():
        of_part[part].add(key)
    assert not of_part["training"] & (of_part["testing"] | of_part["inference"])
    assert sum(map(len, of_part.values())) == len(parts(protocol))
