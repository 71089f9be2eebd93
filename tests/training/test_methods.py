"""Whatever Tables 2-5 compare is trained by one recipe, and used by the same inference."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dsmseg import checkpoint, cli
from dsmseg.baselines import METHODS
from dsmseg.checkpoint import segmenter
from dsmseg.datasets.store import Store
from dsmseg.errors import InputError, WeightsError
from dsmseg.inference import Segmenter
from dsmseg.model import ABLATIONS, PRESETS
from dsmseg.model.losses import PartialLabels
from dsmseg.synthesis.protocol import plan_cases, protocol, split_rows
from dsmseg.taxonomy import TUMORS, find
from dsmseg.training import learner, recipe
from dsmseg.training.launching import launch
from dsmseg.training.learner import Learner
from dsmseg.training.loop import train
from dsmseg.training.measuring import Measurer
from dsmseg.training.patches import Batches, LearningPatch
from dsmseg.training.reading import load_recipe
from dsmseg.training.sources import drawn, loader, open_data

TINY = replace(
    PRESETS["starter"], channels=(4, 8, 8, 8, 8, 32), query_width=32, feed_forward_width=32, state=2, heads=4
)
BASELINES = [method for method in METHODS if method != "dsm"]
SHORT = ["stage_1=null", "stage_2.length=2"]


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch) -> None:
    """Let preset starter be a network that costs little."""
    for place in (recipe, learner, segmenter):
        monkeypatch.setattr(place, "PRESETS", {**PRESETS, "starter": TINY})


@pytest.fixture
def swin_unetr(stored_recipe, tmp_path):
    """Weights that sml is measured on."""
    return train(load_recipe(stored_recipe, ["method=swin_unetr", *SHORT]), tmp_path / "swin_unetr")


def settings_of(method: str, request: pytest.FixtureRequest) -> list[str]:
    start = [f"start={request.getfixturevalue('swin_unetr')}"] if method == "sml" else []
    return [f"method={method}", *SHORT, *start]


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_is_trained_resumed_and_used_as_dsm_is(
    stored_recipe, tmp_path, monkeypatch, method, request
) -> None:
    asked = load_recipe(stored_recipe, [*settings_of(method, request), "reporting.state_every=1"])
    whole = train(asked, tmp_path / "whole")
    kind = Measurer if method == "sml" else Learner
    true_step = kind.step

    def dying(self, batches, now):
        if now == 1:
            raise KeyboardInterrupt
        return true_step(self, batches, now)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(asked, tmp_path / "stopped")
    again = train(asked, tmp_path / "stopped", resume=True)
    first, second = load_file(whole), load_file(again)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []

    card = checkpoint.verify(whole)
    assert (card.method, card.stage, card.tumors) == (method, 2, ("Liver Tumor",))
    assert card.organs == ("Right Kidney", "Left Kidney", "Liver")
    hu = np.full((40, 36, 34), 60, np.float32)
    hu[:3] = -1000
    segmentation = Segmenter.load(whole)(hu, np.diag([1.5, 1.5, 1.5, 1.0]))
    assert segmentation.anomaly.shape == hu.shape
    assert segmentation.run["tumors"] == "searched"


@pytest.mark.parametrize("method", [None, "universal"])
def test_a_dry_run_tells_what_a_baseline_would_be(stored_recipe, capsys, method, swin_unetr) -> None:
    settings = [f"method={method}"] if method else ["method=sml", f"start={swin_unetr}"]
    changes = [part for one in (*settings, *SHORT) for part in ("--set", one)]
    assert cli.run(["train", str(stored_recipe), "--dry-run", "--json", *changes]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "stage 1" not in told
    assert told["stage 2"]["classes"][-1] == "Liver Tumor"


def test_sml_changes_no_parameter_of_the_weights_it_measures(stored_recipe, tmp_path, swin_unetr) -> None:
    measured = load_file(
        train(load_recipe(stored_recipe, ["method=sml", f"start={swin_unetr}", *SHORT]), tmp_path / "sml")
    )
    before = load_file(swin_unetr)
    assert [name for name in before if not torch.equal(before[name], measured[name])] == []
    assert set(measured) - set(before) == {"count", "mean", "variance"}
    assert int(measured["count"].sum()) == 2 * 2 * 32**3


def test_sml_measures_patches_as_they_are(stored_recipe, swin_unetr) -> None:
    always = ["augmentation={brightness_chance: 1, gamma_chance: 1, rotation_chance: 1}", *SHORT]
    images = []
    for method in (["method=sml", f"start={swin_unetr}"], ["method=swin_unetr"]):
        asked = load_recipe(stored_recipe, [*method, *always])
        images.append(next(drawn(loader(open_data(asked, 2), asked, range(1), rank=0, ranks=1)))[0].image)
    plain = load_recipe(stored_recipe, ["method=swin_unetr", "augmentation={rotation_chance: 0, scale_chance: 0, \
        elastic_chance: 0, brightness_chance: 0, gamma_chance: 0}", *SHORT])  # fmt: skip
    expected = next(drawn(loader(open_data(plain, 2), plain, range(1), rank=0, ranks=1)))[0].image
    assert torch.equal(images[0], expected)
    assert not torch.equal(images[1], expected)


@pytest.mark.parametrize(
    "ablation", ["without_dqr", "without_clip", pytest.param("without_amvp", marks=pytest.mark.slow)]
)
def test_rows_that_differ_in_stage_2_alone_go_on_from_one_stage_1(stored_recipe, tmp_path, ablation) -> None:
    first = train(load_recipe(stored_recipe, ["stage_2=null", "stage_1.length=1"]), tmp_path / "first")
    row = [f"ablation={ablation}", "stage_1=null", f"start={first}", "stage_2.length=1"]
    card = checkpoint.verify(train(load_recipe(stored_recipe, row), tmp_path / "row"))
    assert (card.ablation, card.stage, card.tumors) == (ablation, 2, ("Liver Tumor",))


def test_a_row_with_other_organ_queries_needs_a_stage_1_of_its_own(stored_recipe, tmp_path) -> None:
    for start, ablation in (("starter", "without_kmm"), ("starter", "without_all")):
        asked = load_recipe(stored_recipe, [f"ablation={ablation}", "stage_1=null", f"start={start}"])
        with pytest.raises(WeightsError, match="organ queries are not those") as error:
            train(asked, tmp_path / "run")
        assert "\n" not in str(error.value)
    both = load_recipe(stored_recipe, ["ablation=without_all", "stage_1.length=1", "stage_2.length=1"])
    assert checkpoint.verify(train(both, tmp_path / "both")).ablation == "without_all"


def test_stage_2_goes_on_from_no_baseline_and_sml_from_nothing_but_swin_unetr(
    stored_recipe, tmp_path, swin_unetr
) -> None:
    with pytest.raises(WeightsError, match="is of swin_unetr"):
        train(load_recipe(stored_recipe, ["stage_1=null", f"start={swin_unetr}"]), tmp_path / "run")
    with pytest.raises(WeightsError, match="is of method dsm; sml measures swin_unetr"):
        train(load_recipe(stored_recipe, ["method=sml", "start=starter", *SHORT]), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["method=nnunet"], "'method': Input should be"),
        (["ablation=without"], "'ablation': Input should be"),
        (["method=universal"], "leave stage_1 out"),
        (["method=sml", "stage_1=null"], "name them as start"),
        (["method=max_query", "stage_1=null", "ablation=without_kmm"], "ablation is a row of DSM's"),
        (["method=max_query", "stage_1=null", "freeze=[tumor_head]"], "has no part 'tumor_head'"),
        (["method=max_query", "stage_1=null", "stage_2=null"], "neither a stage_1 nor a stage_2"),
    ],
)
def test_what_does_not_fit_a_method_is_told_in_one_line(stored_recipe, settings, told) -> None:
    with pytest.raises(InputError, match=told) as error:
        load_recipe(stored_recipe, settings)
    assert "\n" not in str(error.value)


def test_without_text_alignment_nothing_has_to_teach_it(stored_recipe) -> None:
    plain = ["loss.certainty=none", "loss.alignment=0"]
    for settings in (["ablation=without_clip"], ["ablation=without_all"], ["method=swin_unetr", "stage_1=null"]):
        assert not load_recipe(stored_recipe, [*settings, *plain]).reads_text
    for ablation in set(ABLATIONS) - {"without_clip", "without_all"}:
        with pytest.raises(InputError, match="nothing that teaches text_alignment"):
            load_recipe(stored_recipe, [f"ablation={ablation}", *plain])


def test_a_run_from_before_goes_on_as_dsm_in_full(stored_recipe, tmp_path) -> None:
    asked = load_recipe(stored_recipe, ["stage_2=null", "stage_1.length=1", "stage_1.cool_down=0"])
    train(asked, tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    record = json.loads(path.read_text())
    del record["method"], record["ablation"]
    path.write_text(json.dumps(record))
    train(asked, tmp_path / "run", resume=True)
    other = load_recipe(
        stored_recipe, ["stage_2=null", "stage_1.length=1", "stage_1.cool_down=0", "ablation=without_kmm"]
    )
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="another 'ablation'"):
        train(other, tmp_path / "run", resume=True)


class Annotating:
    """A source whose patch annotates the liver, its tumor, and a tumor of a kind that is to stay unseen."""

    def patch(self, step: int, place: int) -> LearningPatch:
        known = torch.zeros(45, dtype=torch.bool)
        known[[find(name).id - 1 for name in ("Liver", "Liver Tumor", "Lung Tumor")]] = True
        masks = torch.rand(45, 32, 32, 64, generator=torch.Generator().manual_seed(step)) < 0.1
        return LearningPatch(torch.rand(2, 32, 32, 64), masks, known, (), "annotating")


@pytest.mark.parametrize("method", ["dsm", "swin_unetr", "universal", "max_query"])
def test_a_class_that_the_recipe_leaves_out_reaches_no_loss_though_a_patch_annotates_it(stored_recipe, method) -> None:
    unseen = sorted(protocol().unseen)
    assert "Lung Tumor" in unseen
    learned = [one.name for one in TUMORS if one.name not in unseen] + ["Liver"]
    start = ["start=starter"] if method == "dsm" else []
    asked = load_recipe(stored_recipe, [f"method={method}", f"classes={json.dumps(learned)}", *SHORT, *start])
    batch = Batches([(Annotating(), 2)], learned=asked.learned())[0][0]
    lung = find("Lung Tumor").id - 1
    assert not batch.labels.annotated[:, lung].any()
    masks = batch.labels.masks.clone()
    masks[:, lung] = ~masks[:, lung]
    data = open_data(asked, 2)
    losses = []
    for labels in (batch.labels, PartialLabels(masks, batch.labels.annotated)):
        learning = Learner(launch(asked.hardware), asked, 2, asked.stage_2, data)
        learning.network.eval()
        output = learning.network(batch.image)
        terms = learning._losses(output, labels)
        losses.append({name: float(one.detach()) for name, one in terms.items()})
        if method != "max_query":  # where a class's logits are mixtures over queries, which others teach
            output.tumor_logits.retain_grad()
            torch.stack(list(terms.values())).sum().backward()
            assert not output.tumor_logits.grad[:, lung - 25].any()
    assert losses[0] == losses[1]


def test_no_case_of_the_synthetic_benchmark_that_shows_an_unseen_tumor_is_for_training() -> None:
    unseen = {find(name).id for name in protocol().unseen}
    rows = {(one.dataset, one.case): one for one in split_rows(plan_cases("mini", 0))}
    telling = [one for one in plan_cases("mini", 0) if unseen & {c for label in one.labels for c in label.classes}]
    assert telling
    for one in telling:
        row = rows[one.dataset, one.case]
        assert {row.paper, row.clean} == {"inference"}


def test_a_store_s_case_for_inference_is_not_learned_from(stored_recipe, tmp_path) -> None:
    splits = tmp_path / "splits.csv"
    splits.write_text(splits.read_text().replace("lits,3,,training,training", "lits,3,,inference,inference"))
    asked = load_recipe(stored_recipe, ["method=swin_unetr", *SHORT])
    assert {case.record.case for case in open_data(asked, 2).cases} == {"1", "2"}
    assert len(Store.open(tmp_path / "store").cases()) == 3
