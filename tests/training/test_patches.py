"""Batches follow from seed and step, and are shared out to processes."""

import pytest
import torch

from dsmseg.datasets.store import Store
from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.synthesis.bodies import PatchPlan, read_body
from dsmseg.taxonomy import find
from dsmseg.training.learning_patches import LearningPatch
from dsmseg.training.patches import Batches, DrawnPatches
from dsmseg.training.reading import load_recipe
from dsmseg.training.sources import drawn, loader, open_data

EVERYTHING = frozenset(range(1, 46))


@pytest.fixture
def source(recipe_file):
    body = read_body(recipe_file.with_name("labels.nii.gz"), recipe_file.with_name("ct.nii.gz"), totalsegmentator())

    def make(seed: int = 0) -> Batches:
        patches = DrawnPatches(
            [body],
            plan=lambda step: PatchPlan(size=(32, 32, 32)),
            hu_windows=[(-175.0, 250.0), (-1000.0, 1000.0)],
            real=1,
            phantoms=0.0,
            reuse=3,
            seed=seed,
        )
        return Batches([(patches, 2)], learned=EVERYTHING)

    return make


def test_a_step_has_the_same_batch_in_whatever_order_it_is_asked_for(source) -> None:
    forward, jumping = source(), source()
    images = {step: forward[step][0].image for step in range(30)}
    for step in (25, 3, 12):
        assert torch.equal(jumping[step][0].image, images[step])
    assert not torch.equal(source(1)[3][0].image, images[3])


def test_a_draw_is_used_several_times_but_never_twice_the_same(source) -> None:
    batches = source()
    first, again = batches[0][0], batches[8][0]
    assert torch.equal(first.labels.masks, batches[16][0].labels.masks)
    assert torch.equal(first.labels.masks, again.labels.masks)
    assert not torch.equal(first.image, again.image)
    assert not torch.equal(first.labels.masks, batches[24][0].labels.masks)


def test_what_the_label_map_does_not_annotate_is_unknown(source) -> None:
    labels = source()[0][0].labels
    assert labels.annotated.sum(1).tolist() == [20, 20]
    assert not labels.masks[~labels.annotated].any()


def test_a_batch_has_a_channel_for_each_hu_window(source) -> None:
    image = source()[0][0].image
    assert image.shape == (2, 2, 32, 32, 32)
    assert image.min() == 0.0
    assert image.max() <= 1.0


def batches_of(path, *settings: str, steps: int = 3, rank: int = 0, ranks: int = 1):
    recipe = load_recipe(path, list(settings))
    data = open_data(recipe, 2)
    return list(drawn(loader(data, recipe, range(steps), rank=rank, ranks=ranks)))


@pytest.mark.parametrize("mixed", ["0", "0.7"])
def test_processes_share_a_step_s_patches_out(stored_recipe, mixed) -> None:
    settings = ("batch.stored=4", f"batch.mixed={mixed}")
    whole = batches_of(stored_recipe, *settings)
    parts = [batches_of(stored_recipe, *settings, rank=rank, ranks=2) for rank in range(2)]
    for step in range(3):
        together = torch.stack([parts[place % 2][step][0].image[place // 2] for place in range(4)])
        assert torch.equal(whole[step][0].image, together)


def test_loader_processes_and_accumulation_change_nothing_of_the_batches(stored_recipe) -> None:
    here = batches_of(stored_recipe, "batch.stored=4")
    there = batches_of(stored_recipe, "batch.stored=4", "hardware.workers=2", "hardware.accumulate=2")
    for one, parts in zip(here, there, strict=True):
        assert [len(part.image) for part in parts] == [2, 2]
        assert torch.equal(one[0].image, torch.cat([part.image for part in parts]))
        assert torch.equal(one[0].labels.masks, torch.cat([part.labels.masks for part in parts]))


def test_only_the_classes_asked_for_are_known(stored_recipe) -> None:
    batch = batches_of(stored_recipe, "classes=[Liver Tumor, liver]", steps=1)[0][0]
    liver, tumor = find("Liver").id, find("Liver Tumor").id
    assert set((batch.labels.annotated[0].nonzero().flatten() + 1).tolist()) == {liver, tumor}


def test_a_broken_case_is_one_line_from_a_loader_process_too(stored_recipe, tmp_path) -> None:
    for image in (tmp_path / "store").rglob("image.b2nd"):
        image.write_bytes(b"nothing")
    for workers in (0, 1):
        with pytest.raises(InputError, match="image"):
            batches_of(stored_recipe, f"hardware.workers={workers}")


def test_a_store_without_a_case_for_the_stage_or_of_another_spacing_is_refused(stored_recipe, tmp_path) -> None:
    splits = tmp_path / "splits.csv"
    with pytest.raises(InputError, match=r"holds voxels of 1.5 x 1.5 x 1.5 mm, the recipe wants 3"):
        batches_of(stored_recipe, "patch.spacing=3")
    splits.write_text(splits.read_text().replace("1 2", "1"))
    with pytest.raises(InputError, match="no case to train Stage 2 on"):
        batches_of(stored_recipe)
    assert Store.open(tmp_path / "store").cases()


def test_one_side_of_a_merged_pair_is_not_learned_from_both(stored_recipe) -> None:
    recipe = load_recipe(stored_recipe, ["classes=[Right Kidney, Liver]"])
    right, left, liver = (find(name).id - 1 for name in ("Right Kidney", "Left Kidney", "Liver"))

    class Merged:
        def patch(self, step: int, place: int) -> LearningPatch:
            known = torch.zeros(45, dtype=torch.bool)
            known[[right, left, liver]] = True
            masks = torch.zeros(45, 4, 4, 4, dtype=torch.bool)
            return LearningPatch(torch.zeros(2, 4, 4, 4), masks, known, ((left, right),), "merged")

    batch = Batches([(Merged(), 1)], learned=recipe.learned())[0][0]
    assert batch.labels.annotated[0].nonzero().flatten().tolist() == [liver]
    assert batch.labels.merged == ()
