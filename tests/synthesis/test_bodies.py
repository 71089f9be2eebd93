"""Bodies from label maps: labels stay with their tissue, real images stay real, nothing repeats."""

import numpy as np
import pytest
import torch

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.synthesis.bodies import Body, PatchPlan, draw, read_body
from dsmseg.synthesis.warp import WarpRange
from dsmseg.taxonomy import find

PLAN = PatchPlan(size=(32, 32, 32), spacing=3.0)


@pytest.fixture(scope="module")
def body(label_map, real_scan) -> Body:
    return read_body(label_map, real_scan, totalsegmentator())


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("real", [True, False])
def test_a_sample_is_decided_by_its_seed(body, real) -> None:
    first, again, other = (draw(body, PLAN, generator(seed), real=real) for seed in (3, 3, 4))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.organs, again.organs)
    assert not torch.equal(first.image, other.image)


def test_every_organ_of_the_body_is_seen_and_no_other(body) -> None:
    seen = set()
    for seed in range(40):
        seen |= set(draw(body, PLAN, generator(seed), real=False).organs.unique().tolist())
    names = ("Liver", "Spleen", "Right Kidney", "Right Lung", "Colon")
    assert seen == {0, *(find(name).id for name in names)}


@pytest.mark.parametrize("real", [True, False])
def test_intensities_lie_where_their_labels_lie(body, real) -> None:
    lung, liver = find("Right Lung").id, find("Liver").id
    differences = []
    for seed in range(12):
        sample = draw(body, PLAN, generator(seed), real=real)
        if min((sample.organs == organ).sum() for organ in (lung, liver)) > 200:
            differences.append(
                float(sample.image[sample.organs == liver].median() - sample.image[sample.organs == lung].median())
            )
    assert len(differences) >= 3
    assert min(differences) > 400


def test_synthetic_intensities_are_finite_and_in_the_range_of_ct(body) -> None:
    for seed in range(10):
        image = draw(body, PLAN, generator(seed), real=False).image
        assert image.isfinite().all()
        assert image.min() > -1500
        assert image.max() < 2500


def test_contrast_differs_from_sample_to_sample(body) -> None:
    liver = find("Liver").id
    means = [
        float(sample.image[sample.organs == liver].mean())
        for seed in range(30)
        if ((sample := draw(body, PLAN, generator(seed), real=False)).organs == liver).sum() > 500
    ]
    assert np.std(means) > 15


def test_beyond_the_scan_there_is_air(body) -> None:
    wide = PatchPlan(size=(32, 32, 32), spacing=20.0, warp=WarpRange(rotation=0, elastic=0))
    sample = draw(body, wide, generator(0), real=True)
    assert not sample.inside.all()
    assert sample.image[~sample.inside].max() < -900
    assert (sample.organs[~sample.inside] == 0).all()


def test_a_label_map_of_another_scan_is_refused(label_map, real_scan, tmp_path) -> None:
    import nibabel

    moved = nibabel.load(label_map)
    affine = moved.affine.copy()
    affine[:3, 3] += 50
    nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), affine), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"moved\.nii\.gz: does not lie where"):
        read_body(tmp_path / "moved.nii.gz", real_scan, totalsegmentator())


def test_an_unknown_id_is_refused(label_map, tmp_path) -> None:
    import nibabel

    image = nibabel.load(label_map)
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 200
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), tmp_path / "ids.nii.gz")
    with pytest.raises(InputError, match="id 200"):
        read_body(tmp_path / "ids.nii.gz", None, totalsegmentator())


def test_a_thin_slab_repeats_its_last_slices_in_image_and_labels(body) -> None:
    thin = PatchPlan(size=(32, 32, 32), spacing=3.0, truncation=1.0)
    repeated = 0
    for seed in range(8):
        organs = draw(body, thin, generator(seed), real=False).organs.int()
        same = (organs[:, :, 1:] == organs[:, :, :-1]).all(0).all(0)
        repeated = max(repeated, int(same.sum()))
    assert repeated >= 10
