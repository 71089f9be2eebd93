"""Real nodules pasted into lungs: from a folder of a small format, without the patients excluded."""

import numpy as np
import pytest

from dsmseg.errors import InputError
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.tumors.nodules import paste, read_nodules

SPACING = (2.0, 2.0, 2.0)


@pytest.fixture
def folder(tmp_path):
    """Give two balls of soft tissue, of a radius of 5 mm, of two patients."""
    x, y, z = np.indices((30, 30, 9))
    ball = ((x - 14.5) ** 2 + (y - 14.5) ** 2) * 0.49 + ((z - 4) * 2.5) ** 2 < 25
    hu = np.where(ball, 40, -860).astype(np.int16)
    np.savez_compressed(tmp_path / "ct.npz", one=hu, two=hu)
    np.savez_compressed(tmp_path / "mask.npz", one=ball, two=ball)
    rows = ["nodule,patient,spacing_x,spacing_y,spacing_z", "one,P1,0.7,0.7,2.5", "two,P2,0.7,0.7,2.5"]
    (tmp_path / "nodules.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def lung():
    x, y, z = np.indices((40, 40, 30))
    host = ((x - 20) / 17) ** 2 + ((y - 20) / 17) ** 2 + ((z - 15) / 13) ** 2 < 1
    image = np.where(host, -860.0, 40.0) + np.random.default_rng(0).normal(0, 20, host.shape)
    return image.astype(np.float32), host


def test_a_nodule_lies_in_the_lung_is_as_dense_as_it_was_and_leaves_the_rest_alone(folder) -> None:
    image, host = lung()
    before = image.copy()
    nodule = read_nodules(folder)[0]
    volumes = []
    for seed in range(8):
        pasted = paste(image, host, SPACING, nodule, generator("paste", seed))
        assert not (pasted.mask & ~host).any()
        np.testing.assert_array_equal(pasted.image[~host], image[~host])
        assert pasted.image[pasted.mask].max() > -150
        far = np.ones_like(host)
        far[tuple(slice(line.min() - 5, line.max() + 6) for line in pasted.mask.nonzero())] = False
        np.testing.assert_array_equal(pasted.image[far], image[far])
        volumes.append(pasted.mask.sum() * 8.0)
    np.testing.assert_array_equal(image, before)
    assert 0.4 < np.median(volumes) / (4 / 3 * np.pi * 125) < 1.7


def test_the_same_stream_pastes_the_same_bytes_and_another_one_elsewhere(folder) -> None:
    image, host = lung()
    nodule = read_nodules(folder)[0]
    first, again, other = (paste(image, host, SPACING, nodule, generator("paste", seed)) for seed in (1, 1, 2))
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.mask != other.mask).any()


def test_a_lung_too_thin_for_a_nodule_gets_none(folder) -> None:
    image, _ = lung()
    thin = np.zeros(image.shape, bool)
    thin[:, 20, 20] = True
    assert paste(image, thin, SPACING, read_nodules(folder)[0], generator("thin")) is None
    assert paste(image, np.zeros_like(thin), SPACING, read_nodules(folder)[0], generator("none")) is None


def test_nodules_of_excluded_patients_are_left_out(folder) -> None:
    assert [one.patient for one in read_nodules(folder, ["P1"])] == ["P2"]


def test_what_is_wrong_with_a_folder_is_told(folder) -> None:
    with pytest.raises(InputError, match="no patient P9 to exclude"):
        read_nodules(folder, ["P9"])
    with pytest.raises(InputError, match="no nodule is left"):
        read_nodules(folder, ["P1", "P2"])
    np.savez(folder / "mask.npz", one=np.ones((2, 2, 2), bool), two=np.ones((2, 2, 2), bool))
    with pytest.raises(InputError, match="do not fit"):
        read_nodules(folder)
    np.savez(folder / "mask.npz", one=np.ones((2, 2, 2), bool))
    with pytest.raises(InputError, match="cannot be read"):
        read_nodules(folder, ["P1"])
    (folder / "ct.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_nodules(folder)
    (folder / "nodules.csv").write_text("nodule\none\n")
    with pytest.raises(InputError, match="lacks the columns"):
        read_nodules(folder)
    with pytest.raises(InputError, match="cannot be read"):
        read_nodules(folder / "nowhere")


def test_an_array_of_objects_is_refused(folder) -> None:
    np.savez(folder / "ct.npz", one=np.array([{}], dtype=object), two=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read_nodules(folder)
