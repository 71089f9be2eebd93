"""Memory that runs out is one line, and sets free what filled it."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsmseg import resources
from dsmseg.errors import InputError
from dsmseg.inference import Segmenter
from dsmseg.inference import segmenter as segmenter_module
from dsmseg.inference.memory import Need, is_out_of_memory, refuse_too_large, telling_memory
from dsmseg.volume import Grid, read_scan


def test_what_torch_says_when_memory_runs_out_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyError("bad_alloc")])
def test_other_errors_stay_what_they_are(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, telling_memory():
        raise error
    assert caught.value is error


def test_memory_that_runs_out_is_told_and_what_filled_it_is_let_go():
    held = []

    def fill():
        array = np.zeros(1000)
        held.append(weakref.ref(array))
        raise MemoryError

    with pytest.raises(InputError, match="memory ran out for this scan") as caught, telling_memory():
        fill()
    gc.collect()
    assert held[0]() is None
    assert isinstance(caught.value.__cause__, MemoryError)


def a_grid(shape, spacing=(0.7, 0.7, 1.0), turn=False) -> Grid:
    affine = np.diag([*spacing, 1.0])
    if turn:  # the file's first axis runs to the head
        affine, shape = affine[:, [2, 0, 1, 3]], (shape[2], shape[0], shape[1])
    return Grid(shape, affine)


@pytest.fixture
def need(make_card):
    return Need(make_card(spacing_mm=(1.5, 1.5, 1.5), window=(96, 96, 96)), 50_000_000, 46)


def test_what_is_needed_grows_with_the_scan_and_the_classes_and_not_with_both(need):
    small, large = need.of(a_grid((512, 512, 133))), need.of(a_grid((512, 512, 1000)))
    assert 0 < small < large < small + 20 * 512 * 512 * 867
    few = replace(need, fields=3)
    every_class = 43 * 4 * 240 * 240 * 667  # an array of all classes at the network's spacing
    assert large - few.of(a_grid((512, 512, 1000))) < every_class / 3


def test_the_order_of_a_files_axes_does_not_matter(need):
    assert need.of(a_grid((300, 200, 100), turn=True)) == need.of(a_grid((300, 200, 100)))


@pytest.mark.parametrize("memory", [1e9, 2e9, 3e9, 4e9, 1e12])
def test_as_many_slices_fit_as_can_be(need, memory):
    grid = a_grid((512, 512, 1000))
    fitting = need.slices_that_fit(grid, int(memory))
    assert 0 <= fitting <= 1000
    assert fitting == 0 or need.of(a_grid((512, 512, fitting))) <= memory
    assert fitting == 1000 or need.of(a_grid((512, 512, fitting + 1))) > memory


def test_a_scan_that_does_not_fit_is_refused_with_what_would(need, monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "available_memory", lambda: 5_000_000_000)
    grid = a_grid((512, 512, 1000))
    with pytest.raises(InputError, match=r"needs \d\.\d GB of memory, and 5\.0 GB can be had") as caught:
        refuse_too_large(grid, need, tmp_path / "ct.nii")
    assert f"Give {need.slices_that_fit(grid, 5_000_000_000)} of its 1000 axial slices" in str(caught.value)
    refuse_too_large(a_grid((100, 100, 50)), need, None)
    monkeypatch.setattr(resources, "available_memory", lambda: None)  # a system that does not tell
    refuse_too_large(grid, need, None)
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match="Close other programs, take weights"):
        refuse_too_large(grid, need, None)


def test_a_segmenter_refuses_by_the_header_before_it_reads(make_network, make_card, write_scan, phantom, monkeypatch):
    segmenter = Segmenter(make_network(), make_card(), device="cpu")
    path = write_scan(phantom(), name="ct.nii.gz")
    volume = read_scan(path)
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    monkeypatch.setattr(segmenter_module, "read_scan", lambda _: 1 / 0)
    for scan in (volume, path):
        with pytest.raises(InputError, match=r"needs 0\.\d GB"):
            segmenter(scan)
