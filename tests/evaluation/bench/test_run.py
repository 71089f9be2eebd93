"""A bench scores every case once, goes on where it was stopped, and refuses what would not be honest."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from dsmseg import checkpoint
from dsmseg.checkpoint import Card
from dsmseg.datasets import labelled
from dsmseg.errors import InputError
from dsmseg.evaluation.bench import Data, Plan, join, load_table, run, run_table
from dsmseg.evaluation.bench.pictures import Found, Shown, draw_side_by_side, reach_of
from dsmseg.model import DSMOutput
from dsmseg.synthesis.truth import truth_path
from dsmseg.taxonomy import find
from dsmseg.volume import Volume, write_nifti

HEADER = "dataset,case,official,paper,clean,supervised,why,stages\n"
SETS = {
    "virtual_lits": ({"background": 0, "Liver": 1, "Liver Tumor": 2}, "testing", "2"),
    "virtual_msd_colon": ({"background": 0, "Colon Tumor": 1}, "inference", ""),
}


class Bright(nn.Module):
    """Finds as any tumor what is bright."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image):
        logits = (image[:, -1:] - 0.55) * 320
        return DSMOutput(
            logits.expand(-1, 25, -1, -1, -1) - 20, None, [], -nn.functional.avg_pool3d(image, 4)[:, 0] * 0.5,
            logits.expand(-1, 20, -1, -1, -1),
        )  # fmt: skip


def organs_around(ids, labels):
    """Give the organ that a test's body has around its tumor: the liver, or a colon that no label tells of."""
    organs = np.where(ids > 0, find("Liver").id, 0).astype(np.uint8)
    if "Liver" not in labels:
        organs[6:30, 6:30, 6:30] = find("Colon").id
    return organs


@pytest.fixture
def data(tmp_path) -> Data:
    """Three cases of each column of Table 5 and one to choose by, whose tumors are bright; one liver has none."""
    rows = HEADER
    for name, (labels, part, stages) in SETS.items():
        folder = tmp_path / "benchmark" / name
        for sub in ("imagesTr", "labelsTr"):
            (folder / sub).mkdir(parents=True)
        index = {"name": name, "channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(index))
        for number in (1, 2, 3, 4) if "Liver" in labels else (1, 2, 3):
            hu, ids = np.full((40, 40, 36), -1000, np.int16), np.zeros((40, 40, 36), np.uint8)
            hu[4:36, 4:36, 2:34] = 0
            if "Liver" in labels:
                ids[8:28, 8:28, 8:28] = 1
            if name != "virtual_lits" or number != 3:
                hu[12:18, 12:18, 12 : 16 + number] = 150
                ids[12:18, 12:18, 12 : 16 + number] = max(labels.values())
            volume = Volume.from_own(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
            write_nifti(folder / "imagesTr" / f"body_{number:04d}_0000.nii.gz", hu, volume)
            write_nifti(folder / "labelsTr" / f"body_{number:04d}.nii.gz", ids, volume)
            truth = truth_path(tmp_path / "benchmark", name, f"body_{number:04d}")
            truth.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(truth, organs_around(ids, labels), volume)
            place = "validation" if number == 4 else part
            rows += f"{name},body_{number:04d},,{place},{place},,,{stages}\n"
    (tmp_path / "splits.csv").write_text(rows)
    return Data("mini", tmp_path / "benchmark", tmp_path / "store", tmp_path / "splits.csv")


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Stand in for training: weights that find what is bright, of a card that a test may change."""
    card = {
        "name": "bright", "version": "1", "preset": "starter", "stage": 2, "organs": ("Liver",),
        "tumors": ("Liver Tumor", "Kidney Tumor"), "text_encoder": "all-MiniLM-L6-v2", "spacing_mm": (3.0, 3.0, 3.0),
        "hu_windows": ((-1000.0, 1000.0),), "window": (32, 32, 32), "training_data": (), "licence": "CC0-1.0",
        "figures": {},
    }  # fmt: skip
    trainings = []

    def train(self, training, seed, report):
        trainings.append((training.name, seed))
        path = tmp_path / f"{training.name}_{seed}.safetensors"
        if not path.exists():
            checkpoint.save(path, {"scale": torch.full((1,), float(len(trainings)))}, Card(**card))
        return path

    monkeypatch.setattr(run.Trainings, "train", train)
    monkeypatch.setattr(run, "draw_side_by_side", lambda path, rows: path.write_text(" ".join(rows[0].found)))
    place = lambda self, training, seed: tmp_path / f"{training.name}_{seed}.safetensors"  # noqa: E731
    monkeypatch.setattr(run.Trainings, "weights", place)
    monkeypatch.setattr(run.Trainings, "check", lambda self, training, seed, unseen: None)
    monkeypatch.setattr(Data, "version", lambda self: {"protocol": 1})
    monkeypatch.setattr(checkpoint, "network", lambda loaded: Bright().eval())
    return card, trainings


def a_plan(data, tmp_path, **changes) -> Plan:
    return Plan(load_table("table5"), data, tmp_path / "out", **({"rows": ("full", "without_clip")} | changes))


def quiet(what: str, done: int, total: int) -> None:
    assert done <= total


def test_each_case_is_scored_in_each_region_and_the_table_shows_ours_beside_the_papers(data, trained, tmp_path):
    summary = run_table(a_plan(data, tmp_path, seeds=2), quiet)
    assert trained[1] == [(name, seed) for seed in (0, 1) for name in ("without_clip", "full")]
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * (6 + 1)  # operating points of each weights, too
    full = next(row for row in summary["rows"] if row["row"] == "full")
    liver, colon = full["columns"]
    assert (liver["cases"], colon["cases"]) == (2, 3)  # one liver shows no tumor
    assert liver["ours"]["dsc"]["mean"] > 0.9
    assert liver["ours"]["auroc"]["mean"] > 0.999
    assert set(liver["ours"]["dsc"]["seeds"]) == {"0", "1"}
    assert liver["ours"]["host_auroc"]["n"] == 2
    assert colon["ours"]["host_auroc"]["n"] == 3  # no label map holds the colon, but the truth does
    assert liver["ours"]["sensitivity"]["mean"] == colon["ours"]["sensitivity"]["mean"] == 1
    assert "above_reference" not in liver["ours"]["auroc"]
    others = next(row for row in summary["rows"] if row["row"] == "without_clip")["columns"]
    assert others[0]["ours"]["auroc"]["above_reference"] == {"value": 0, "low": 0, "high": 0}
    assert colon["answered_by"] == ["any tumor"]
    assert liver["paper"]["dsc"] == (82.73, 0.24)
    page = (tmp_path / "out" / "table5.md").read_text()
    assert page.count("82.73±0.24") == 1
    assert page.splitlines()[2].startswith(
        "| Liver Tumor, seen (2 cases) | AUROC near the host↑ | AUROC in the body↑ |"
    )
    assert "+0.0 (+0.0 to +0.0), not told apart" in page
    assert (tmp_path / "out" / "table5.png").read_text() == "without CLIP all four: DSM"


def test_the_picture_is_drawn_anew_of_other_weights_alone(data, trained, tmp_path):
    path = tmp_path / "out" / "table5.png"
    run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    assert path.read_text() == "all four: DSM"
    path.write_text("mine")
    run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    assert path.read_text() == "mine"
    run_table(a_plan(data, tmp_path), quiet)
    assert path.read_text() == "without CLIP all four: DSM"


def test_the_picture_has_a_row_a_tumor_and_a_column_a_method(tmp_path):
    hu = np.zeros((30, 36, 8), np.float32)
    reference = np.zeros(hu.shape, bool)
    reference[10:14, 10:14, 3] = True
    volume = Volume.from_own(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
    nothing = np.zeros_like(reference)
    found = {"a": Found(reference, reference), "b": Found(nothing, ~reference), "c": Found(nothing, nothing)}
    row = Shown("Liver Tumor", volume, find("Liver Tumor"), reference, found)
    draw_side_by_side(tmp_path / "picture.png", [row, row])
    height, width = imread(tmp_path / "picture.png").shape[:2]
    assert width > 1.6 * height  # four panels beside one another, two below


def test_the_reach_holds_95_percent_of_a_tumor_and_what_scores_as_high():
    scores = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    reference, body = scores >= 900, scores < 1000
    reference[0, 0, 0] = True  # one of its 101 voxels scores lowest: within the 5 %
    reach = reach_of(scores, reference, body)
    assert (reach & reference).sum() / reference.sum() >= 0.95
    assert not reach[0, 0, 0]
    assert not (reach & ~reference).any()
    assert not reach_of(scores, reference, scores < 950)[scores >= 950].any()
    assert reach_of(np.zeros_like(scores), reference, body).all()  # says nothing: all of the body


def test_stopped_anywhere_it_goes_on_to_the_same_table(data, trained, tmp_path, monkeypatch):
    expected = run_table(a_plan(data, tmp_path / "whole"), quiet)
    real, scored = run.score_case, []

    def stopping(*arguments):
        if len(scored) in (2, 7):
            scored.append(None)
            raise KeyboardInterrupt
        scored.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(run, "score_case", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_table(a_plan(data, tmp_path), quiet)
        with (tmp_path / "out" / "scores.jsonl").open("a") as file:
            file.write('{"version": 1, "weig')  # and the disk was cut off
    assert run_table(a_plan(data, tmp_path), quiet) == expected
    assert len(scored) == 12 + 2  # none twice
    run_table(a_plan(data, tmp_path), quiet)
    assert len(scored) == 12 + 2


def test_rows_that_need_no_training_are_scored_beside_the_others_and_alone(data, trained, tmp_path):
    summary = run_table(a_plan(data, tmp_path, rows=("host_mask", "host_deviation")), quiet)
    assert trained[1] == []
    mask, deviation = summary["rows"][:2]
    assert [row["row"] for row in (mask, deviation)] == ["host_mask", "host_deviation"]
    for column in range(2):
        flat, unlike = (row["columns"][column]["ours"] for row in (mask, deviation))
        assert flat["auroc"]["mean"] > 0.75  # any voxel of the organ, wherever the tumor is
        assert unlike["host_auroc"]["mean"] > flat["host_auroc"]["mean"]
        assert unlike["sensitivity"]["mean"] == 1
        assert flat["sensitivity"]["mean"] == 0  # a whole organ shows no tumor
    with_full = run_table(a_plan(data, tmp_path, rows=("host_mask", "full"), seeds=2), quiet)
    assert set(with_full["rows"][0]["columns"][0]["ours"]["auroc"]["seeds"]) == {"0", "1"}


def test_masks_are_cut_at_the_operating_point_of_the_card_or_else_at_one_chosen_on_validation_scans(
    data, trained, tmp_path
):
    card, _ = trained
    high = {"threshold": 0.99995, "sensitivity": 0.5, "false_lesions": 0.0, "cases": 1, "lesions": 1}
    run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    card["operating_points"] = {"Liver Tumor": high}
    summary = run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    liver, colon = summary["rows"][-1]["columns"]
    assert liver["ours"]["dsc"]["mean"] == 0  # nothing is so certain
    assert liver["ours"]["sensitivity"]["mean"] == 1  # that is told at every threshold
    assert colon["ours"]["dsc"]["mean"] > 0.9


def test_no_scan_that_is_tested_chooses_an_operating_point(data):
    tested = {(one.dataset, one.files.id) for several in data.cases(load_table("table5")).values() for one in several}
    chosen = {(one.dataset, one.files.id) for one in data.validation()}
    assert chosen == {("virtual_lits", "body_0004")}
    assert not chosen & tested


def test_where_no_scan_is_held_out_those_of_training_choose(data):
    text = data.splits.read_text()
    data.splits.write_text(text.replace("validation,validation", "training,training"))
    assert [one.files.id for one in data.validation()] == ["body_0004"]
    data.splits.write_text(text.replace("validation,validation", "testing,testing"))
    with pytest.raises(InputError, match="no case for validation, and none to train on"):
        data.validation()


def test_other_weights_are_scored_anew(data, trained, tmp_path, monkeypatch):
    run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    real = run.score_case
    monkeypatch.setattr(run, "score_case", lambda *given: [row | {"dsc": 0.25} for row in real(*given)])
    summary = run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    assert summary["rows"][-1]["columns"][0]["ours"]["dsc"]["mean"] == 0.25  # of the new ones alone
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len({line["weights"] for line in lines}) == 2
    assert len(lines) == 2 * (6 + 1)


def test_weights_that_saw_an_unseen_kind_are_refused(data, trained, tmp_path):
    card, _ = trained
    card["tumors"] = ("Liver Tumor", "Colon Tumor")
    with pytest.raises(InputError, match="was trained on Colon Tumor, which is to stay unseen"):
        run_table(a_plan(data, tmp_path), quiet)


def test_a_column_without_cases_is_told(data, trained, tmp_path):
    (data.splits).write_text(HEADER)
    with pytest.raises(InputError, match="holds no case of virtual_lits for testing"):
        run_table(a_plan(data, tmp_path), quiet)


def test_figures_are_of_the_seeds_and_weights_that_were_asked_for(data, trained, tmp_path):
    run_table(a_plan(data, tmp_path, seeds=2), quiet)
    summary = run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    figures = {row["row"]: row["columns"][0]["ours"]["dsc"] for row in summary["rows"]}
    assert set(figures["full"]["seeds"]) == {"0"}
    assert figures["without_clip"]["n"] == 0


def test_a_case_that_was_made_anew_is_scored_anew(data, trained, tmp_path):
    run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    path = data.folder / "virtual_lits" / "labelsTr" / "body_0001.nii.gz"
    os.utime(path, (1, 1))
    run_table(a_plan(data, tmp_path, rows=("full",)), quiet)
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == (6 + 1) + 1


def test_a_setting_that_an_older_version_did_not_have_had_the_value_of_its_default(data, trained, tmp_path):
    plan = a_plan(data, tmp_path, rows=("full",))
    run_table(plan, quiet)
    path = tmp_path / "out" / "bench.json"
    older = json.loads(path.read_text())
    del older["recipe"]["loss"]["responds_to"]
    path.write_text(json.dumps(older))
    run_table(plan, quiet)
    with pytest.raises(InputError, match="holds a bench of another recipe"):
        run_table(a_plan(data, tmp_path, settings=["loss.responds_to=healthy"]), quiet)


@pytest.mark.parametrize("changed", [{"settings": ["batch.stored=4"]}, {"settings": ["stage_1.length=9 steps"]}])
def test_a_folder_holds_one_bench(data, trained, tmp_path, changed):
    run_table(a_plan(data, tmp_path), quiet)
    with pytest.raises(InputError, match="holds a bench of another recipe"):
        run_table(a_plan(data, tmp_path, **changed), quiet)


@pytest.mark.parametrize("setting", ["start=mine.safetensors", "store.protocol=paper", "method=sml"])
def test_what_is_the_benchs_to_set_is_refused(data, trained, tmp_path, setting):
    with pytest.raises(InputError, match=f"{setting}: '.*' is the bench's to set"):
        run_table(a_plan(data, tmp_path, settings=[setting]), quiet)


def test_what_all_seeds_need_is_looked_at_once_before_the_first_training(data, trained, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(run.Trainings, "check", lambda self, one, seed, unseen: checked.append((one.name, seed)))
    run_table(a_plan(data, tmp_path, seeds=2), quiet)
    assert sorted(checked) == [(name, seed) for name in ("full", "stage_1", "without_clip") for seed in (0, 1)]


def test_sides_are_parted_at_the_middle_that_preparing_finds(data):
    (reference, *_) = next(iter(data.cases(load_table("table5")).values()))
    image = reference.load().image
    fine = Volume.from_own(np.kron(image.array, np.ones((2, 1, 1), np.float32)), image.affine @ np.diag([0.5, 1, 1, 1]))
    assert labelled._middle(image) == pytest.approx(19.5)  # the body is in columns 4 to 35
    assert labelled._middle(fine) == pytest.approx(39.5, abs=1)


def test_seeds_that_were_run_apart_join_to_the_table_of_all(data, trained, tmp_path):
    both = run_table(a_plan(data, tmp_path, seeds=2), quiet)
    parts = [
        run_table(replace(a_plan(data, tmp_path, first_seed=seed), directory=tmp_path / f"seed_{seed}"), quiet)
        for seed in (0, 1)
    ]
    assert [{case["seed"] for case in one["cases"]} for one in parts] == [{0}, {1}]
    read = [json.loads(json.dumps(one)) for one in parts]
    joined = join(load_table("table5"), read)
    assert joined["rows"] == both["rows"]
    assert joined["made_by"] == both["made_by"]
    assert len(joined["parts"]) == 2
    assert join(load_table("table5"), [json.loads(json.dumps(joined))])["rows"] == both["rows"]


@pytest.mark.parametrize(
    ("table", "change", "what"),
    [
        ("table5", {}, "without_clip, seed 0: Liver Tumor of body_0001 is there twice"),
        ("table5", {"lengths": ["1 steps", "1 steps"]}, "different 'lengths'"),
        ("table3", {}, "table5 is not table3"),
    ],
)
def test_what_does_not_belong_together_is_not_joined(data, trained, tmp_path, table, change, what):
    one = run_table(a_plan(data, tmp_path), quiet)
    other = one | {"made_by": one["made_by"] | change}
    with pytest.raises(InputError, match=what):
        join(load_table(table), [one, other])
