"""A benchmark is data sets that `prepare` reads as they are; each annotates what its model does, and leaks nothing."""

import json
import shutil
from dataclasses import dataclass, replace

import native_trees as native
import numpy as np
import pytest

from dsmseg.datasets import Settings, Store, choose_datasets, prepare, verify
from dsmseg.datasets.description import by_name
from dsmseg.datasets.protocols import choose_cases
from dsmseg.datasets.splits import read_splits
from dsmseg.errors import InputError
from dsmseg.synthesis import benchmark
from dsmseg.synthesis import protocol as protocols
from dsmseg.synthesis.benchmark import write_benchmark
from dsmseg.synthesis.protocol import plan_cases, protocol
from dsmseg.synthesis.truth import Truth, truth_path
from dsmseg.taxonomy import by_id, find

ORGAN_SETS = {"btcv", "chaos", "pancreas_ct", "ct_org", "word", "amos22", "totalsegmentator", "abdomenct_1k"}
TUMOR_SETS = {"lits", "kits"}
UNSEEN_SETS = {"msd_lung", "msd_pancreas", "msd_hepatic_vessel", "msd_colon"}
UNSEEN = {"Lung Tumor", "Pancreas Tumor", "Hepatic Vessel Tumor", "Colon Tumor"}
COUNTS = dict(zip(UNSEEN_SETS, [(0, 0, 2, 0)] * 4, strict=True)) | dict.fromkeys(ORGAN_SETS, (1, 0, 0, 0))
COUNTS |= {"btcv": (1, 1, 0, 0), "lits": (1, 2, 0, 2), "kits": (1, 1, 0, 0), "ct_org": (3, 0, 0, 0)}


@dataclass
class StubCase:
    image: np.ndarray
    affine: np.ndarray
    record: dict
    masks: dict

    def mask(self, class_id):
        return self.masks.get(class_id, np.zeros(self.image.shape, bool))


def make(plan):
    """Give a patient of the tests of `datasets`, who has the tumors of the plan and no others."""
    region = {"thorax": "chest", "abdomen": "abdomen"}.get(plan.coverage, "trunk")
    body = native.make_body(plan.seed % (1 << 32), region)
    known = {find(name).id: mask for name, mask in body.masks.items() if name != "heart"}
    tumors = {find(name).id for name in plan.tumors}
    masks = {one: mask for one, mask in known.items() if by_id(one).kind == "organ" or one in tumors}
    return StubCase(body.hu, body.affine, {"seed": plan.seed, "tumors": list(plan.tumors)}, masks)


@pytest.fixture(scope="module", autouse=True)
def few_cases():
    """Let "mini" be a case or two of each data set."""
    whole = protocol()
    counts = {f"virtual_{name}": dict(zip(protocols._PARTS, one, strict=True)) for name, one in COUNTS.items()}
    few = replace(whole, scales={**whole.scales, "mini": replace(whole.scales["mini"], counts=counts)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "protocol", lambda: few)
        patch.setattr(benchmark, "protocol", lambda: few)
        yield


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "mini"
    write_benchmark(folder, "mini", make=make)
    return folder


@pytest.fixture(scope="module")
def store(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    prepared = prepare(choose_datasets(tree), folder, Settings(spacing_mm=native.SPACING))
    assert [finding.line for one in prepared.datasets for finding in one.left_out] == []
    assert prepared.copies == ()
    return Store.open(folder)


def body_of(record):
    return make(
        benchmark.CasePlan(
            seed=record["seed"],
            coverage=record["coverage"],
            spacing=tuple(record["spacing_mm"]),
            phase=record["phase"],
            tumors=tuple(record["tumors"]),
        )
    )


def records(tree):
    return [json.loads(line) for line in (tree / "cases.jsonl").read_text("utf-8").splitlines()]


def contents(tree):
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def like(name):
    return by_name("kits19" if name == "virtual_kits" else name.removeprefix("virtual_"))


def test_every_case_is_prepared_and_annotates_just_what_the_public_data_set_does(store):
    cases = store.cases()
    assert len(cases) == sum(map(sum, COUNTS.values()))
    for case in cases:
        assert case.record.annotated == like(case.record.dataset).annotated_ids


def test_masks_in_the_store_are_those_of_the_bodies_and_merged_sides_are_parted_again(tree, store):
    for record in records(tree):
        case, body = store.read_case(record["dataset"], record["case"]), body_of(record)
        assert case.record.merged == ()
        # `prepare` cuts the scan to the body; the affine tells where.
        offset = np.linalg.solve(body.affine, np.array(case.record.affine))[:3, 3].round().astype(int)
        box = tuple(slice(first, first + size) for first, size in zip(offset, case.record.shape, strict=True))
        for class_id in case.record.annotated:
            expected = body.mask(class_id)
            found = case.mask(class_id)
            assert np.array_equal(found, expected[box]), (case.name, by_id(class_id).name)
            assert found.sum() == expected.sum()


def test_verify_finds_nothing(tree):
    found = [replace(one, cases=one.cases[:1]) for one in choose_datasets(tree)]
    assert len(found) == 14
    assert [finding.line for one in verify(tree, found) for finding in one.findings] == []


def test_label_maps_merge_what_the_public_data_set_merges(tree):
    labels = {
        one.name: json.loads((tree / one.name / "dataset.json").read_text())["labels"] for one in protocol().datasets
    }
    assert {"lungs", "kidneys"} < labels["virtual_ct_org"].keys()
    assert "adrenal glands" in labels["virtual_word"]
    assert set(labels["virtual_abdomenct_1k"]) == {"background", "Liver", "Spleen", "Pancreas", "kidneys"}
    assert labels["virtual_chaos"] == {"background": 0, "Liver": 1}
    assert labels["virtual_lits"] == {"background": 0, "Liver": 1, "Liver Tumor": 2}
    assert "Prostate" not in labels["virtual_amos22"]


@pytest.mark.parametrize("protocol_name", ["paper", "clean"])
def test_parts_and_stages_are_those_of_table_1(store, tree, protocol_name):
    def taken(part, stage=None):
        choice = choose_cases(store, protocol_name, part, stage=stage, splits=tree / "splits.csv")
        assert choice.left_out == {}
        return {one.name.removeprefix("virtual_") for one in choice.cases}

    organs = {f"{name}/body_{n:04d}" for name in ORGAN_SETS for n in range(1, COUNTS[name][0] + 1)}
    assert taken("training", 1) == organs
    assert taken("training", 2) == organs | {"lits/body_0001", "kits/body_0001"}
    assert taken("testing") == {"btcv/body_0002", "lits/body_0002", "lits/body_0003", "kits/body_0002"}
    assert taken("inference") == {f"{name}/body_{n:04d}" for name in UNSEEN_SETS for n in (1, 2)}
    assert taken("validation") == {"lits/body_0004", "lits/body_0005"}
    assert choose_cases(store, "paper", "training").cases == ()  # without its splits nothing is known of it


def test_the_supervised_protocol_tests_on_some_of_each_unseen_set(store, tree):
    splits = read_splits(tree / "splits.csv")
    for part in ("training", "testing"):
        cases = choose_cases(store, "supervised", part, splits=splits).cases
        assert {one.record.dataset for one in cases} == {f"virtual_{name}" for name in UNSEEN_SETS}


def test_a_damaged_table_of_splits_is_refused(tree, tmp_path):
    text, path = (tree / "splits.csv").read_text(), tmp_path / "splits.csv"
    for wrong in (text.replace(",stages", ""), text.replace("training", "trainig"), text.replace(",1 2", ",one"), '"'):
        path.write_text(wrong)
        with pytest.raises(InputError):
            read_splits(path)


def test_no_two_cases_share_a_seed_or_an_anatomy(tree):
    cases = records(tree)
    assert len({one["seed"] for one in cases}) == len(cases)
    assert len({one["labels_sha256"] for one in cases}) == len({one["image_sha256"] for one in cases}) == len(cases)
    trained, tested = (body_of(next(one for one in cases if one["case"] == f"body_000{n}")).mask(6) for n in (1, 2))
    assert trained.shape != tested.shape or not np.array_equal(trained, tested)


def test_seeds_differ_between_cases_scales_and_benchmarks():
    seeds = [
        s for scale in ("small", "full") for seed in (0, 1) for one in plan_cases(scale, seed) for s in one.seeds[:1]
    ]
    assert len(set(seeds)) == len(seeds) == 2 * (302 + 4008)


@pytest.mark.parametrize("scale", ["mini", "small", "full"])
def test_no_training_or_test_body_grows_an_unseen_tumor_and_organ_sets_grow_none(scale):
    assert protocol().unseen == UNSEEN
    for one in plan_cases(scale, 0):
        name = one.dataset.removeprefix("virtual_")
        assert (name in UNSEEN_SETS) == (one.part == "inference")
        assert name in UNSEEN_SETS or not UNSEEN.intersection(one.tumors)
        assert name not in ORGAN_SETS or one.tumors == ()


def test_a_body_that_shows_an_unseen_tumor_is_never_trained_on(tmp_path):
    def tainted(plan):
        return make(replace(plan, tumors=("Colon Tumor",)))

    with pytest.raises(RuntimeError, match="Colon Tumor that was not planned"):
        write_benchmark(tmp_path / "out", "mini", make=tainted)


def test_full_has_the_counts_of_table_1():
    plans = plan_cases("full", 0)
    assert sum(one.part == "training" for one in plans) == 2688 + 52 + 120
    assert sum(one.part == "testing" for one in plans) == 289
    assert sum(one.part == "inference" for one in plans) == 773
    assert sum(one.supervised == "testing" for one in plans) == 121


def test_the_organs_of_every_body_lie_apart_from_its_data_set_and_only_scoring_finds_them(tree):
    for record in records(tree):
        body = body_of(record)
        truth = Truth.read(truth_path(tree, record["dataset"], record["case"]))
        for tumor in map(find, record["tumors"]):
            hosts = [body.mask(find(host).id) for host in tumor.hosts]
            assert np.array_equal(truth.host(tumor), np.logical_or.reduce(hosts))
    found = choose_datasets(tree)
    read = {path for one in found for case in one.cases for path in (case.image, *case.labels.values())}
    halves = {path for one in found for path in (*one.only_images.values(), *one.only_labels.values())}
    assert not any("truth" in path.relative_to(tree).parts for path in (*read, *halves))


def test_a_store_is_the_same_without_the_truth(tree, store, tmp_path):
    folder = tmp_path / "blind"
    shutil.copytree(tree, folder, ignore=shutil.ignore_patterns("truth"))
    prepare(choose_datasets(folder), tmp_path / "store", Settings(spacing_mm=native.SPACING))
    blind = Store.open(tmp_path / "store")
    assert [one.record for one in blind.cases()] == [one.record for one in store.cases()]
    for one in blind.cases():
        again = store.read_case(*one.key)
        for class_id in one.record.annotated:
            assert np.array_equal(blind.read_case(*one.key).mask(class_id), again.mask(class_id))


def test_a_run_that_broke_off_goes_on_and_ends_with_the_same_bytes(tree, tmp_path):
    made, folder = [], tmp_path / "out"

    def breaking(plan):
        made.append(plan.seed)
        if len(made) == 6:
            raise KeyboardInterrupt
        return make(plan)

    with pytest.raises(KeyboardInterrupt):
        write_benchmark(folder, "mini", make=breaking)
    with pytest.raises(InputError, match="no data set"):  # nobody takes a half for the whole
        choose_datasets(folder)
    (folder / "virtual_btcv/labelsTr/.0123abcd.body_0001.nii.gz").write_bytes(b"half")
    steps = []
    written = write_benchmark(folder, "mini", make=make, progress=lambda *step: steps.append(step))
    assert (written.kept, written.made) == (5, len(records(tree)) - 5)
    assert steps[0][1:] == (6, len(records(tree)))
    assert contents(folder) == contents(tree)


def test_only_what_is_missing_or_of_another_plan_is_made_again(tree, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(tree, folder)
    (folder / "virtual_lits/imagesTr/body_0002_0000.nii.gz").unlink()
    (folder / "truth/virtual_word/body_0001.organs.nii.gz").unlink()
    (folder / "truth/virtual_word/body_0009.organs.nii.gz").write_bytes(b"of an earlier protocol")
    record = folder / "virtual_kits/cases/body_0001.json"
    record.write_text(record.read_text().replace('"plan": "', '"plan": "0'))
    (folder / "virtual_chaos/imagesTr/body_0009_0000.nii.gz").write_bytes(b"of an earlier protocol")
    assert write_benchmark(folder, "mini", make=make).made == 3
    assert contents(folder) == contents(tree)


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tree, tmp_path):
    before = contents(tree)
    for scale, seed in (("small", 0), ("mini", 1)):
        with pytest.raises(InputError, match=r"another benchmark .*scale mini, seed 0"):
            write_benchmark(tree, scale, seed=seed, make=make)
    assert contents(tree) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        write_benchmark(tmp_path, "mini", make=make)
    with pytest.raises(InputError, match="no scale"):
        write_benchmark(tmp_path / "new", "huge", make=make)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_body_that_does_not_show_its_tumor_gives_way_to_the_next(tmp_path):
    tried = {}

    def reluctant(plan):
        case = make(plan)
        if "Kidney Tumor" in plan.tumors and not tried.setdefault(plan.seed, len(tried)):
            case.masks[find("Kidney Tumor").id][:] = False
        return case

    write_benchmark(tmp_path / "out", "mini", make=reluctant)
    plan = next(one for one in plan_cases("mini", 0) if one.dataset == "virtual_kits")
    record = json.loads((tmp_path / "out/virtual_kits/cases/body_0001.json").read_text())
    assert record["seed"] == plan.seeds[1]
