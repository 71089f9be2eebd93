"""Tumors in the streams of training: on each source, in thin slabs, and where a scan is known to lack them."""

import shutil

import numpy as np
import pytest
import torch
from small_stores import store_case

from dsmseg.datasets.store import CaseRecord
from dsmseg.synthesis.protocol import protocol
from dsmseg.taxonomy import TUMORS, find
from dsmseg.training.data_settings import Store
from dsmseg.training.reading import load_recipe
from dsmseg.training.sources import drawn, loader, open_data
from dsmseg.training.tumors import absent_in

LIVER, LIVER_TUMOR = find("Liver").id - 1, find("Liver Tumor").id - 1
TUMOR_IDS = frozenset(one.id for one in TUMORS)
PUT = "tumors={kinds: [Liver Tumor, Kidney Tumor], chance: 1, distractors: 0}"
PAINTED = ["batch={synthetic: 2, reuse: 2}", "patch={size: [64, 64, 64]}", "hardware.accumulate=1"]


def batches_of(path, *settings, steps=3):
    recipe = load_recipe(path, list(settings))
    return [parts[0] for parts in drawn(loader(open_data(recipe, 1), recipe, range(steps), rank=0, ranks=1))]


def tumors_of(batches):
    return sum(int(batch.labels.masks[:, LIVER_TUMOR].any((1, 2, 3)).sum()) for batch in batches)


def test_a_painted_body_gets_another_tumor_in_each_use_of_a_draw(recipe_file) -> None:
    batches = batches_of(recipe_file, PUT, *PAINTED, steps=9)
    first, again = batches[0].labels, batches[8].labels
    assert first.masks[:, LIVER_TUMOR].any()
    assert not torch.equal(first.masks[:, LIVER_TUMOR], again.masks[:, LIVER_TUMOR])
    assert not (first.masks[:, LIVER_TUMOR] & ~first.masks[:, LIVER]).any()


def test_a_real_body_gets_tumors_only_where_the_recipe_says_that_it_is_healthy(recipe_file) -> None:
    real = ["batch={real: 2}", "patch={size: [64, 64, 64]}", PUT]
    assert tumors_of(batches_of(recipe_file, *real)) == 0
    text = recipe_file.read_text().replace("name: block", "name: block, healthy: [liver]")
    recipe_file.write_text(text)
    batches = batches_of(recipe_file, *real)
    assert tumors_of(batches) > 0
    assert all(batch.labels.annotated[:, LIVER_TUMOR].all() for batch in batches)


def test_nothing_of_a_thin_scan_changes_beyond_its_outermost_slices(recipe_file) -> None:
    thin = [PUT, "batch={synthetic: 2}", "patch={size: [64, 64, 64], truncation: 1}"]
    batches = batches_of(recipe_file, *thin, steps=6)
    assert tumors_of(batches) > 0
    for batch in batches:
        for masks in batch.labels.masks:
            moves = (masks[..., 1:] != masks[..., :-1]).flatten(0, 2).any(0).nonzero().flatten()
            assert len(moves) == 0 or moves.max() - moves.min() < 64 * 2 / 3


def test_a_stored_case_gets_tumors_of_the_kinds_that_it_annotates_and_of_no_other(stored_recipe, tmp_path) -> None:
    kidney = PUT.replace("Liver Tumor, ", "")
    plain, put, other_kind = (batches_of(stored_recipe, *more) for more in ([], [PUT], [kidney]))
    assert not all(torch.equal(one.image, other.image) for one, other in zip(plain, put, strict=True))
    for one, other in zip(plain, other_kind, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.labels.masks, other.labels.masks)
    for number in "123":
        for file in (tmp_path / "store" / "lits" / number).iterdir():
            file.unlink()
        (tmp_path / "store" / "lits" / number).rmdir()
        store_case(tmp_path / "store", case=number, tumor=False)
    healthy = batches_of(stored_recipe, PUT, steps=12)
    assert tumors_of(healthy) > 0
    for batch in healthy:
        assert not (batch.labels.masks[:, LIVER_TUMOR] & ~batch.labels.masks[:, LIVER]).any()


def test_of_a_tumor_put_where_something_is_unknown_all_is_known(stored_recipe, tmp_path) -> None:
    for number in "123":
        shutil.rmtree(tmp_path / "store" / "lits" / number)
        store_case(tmp_path / "store", case=number, tumor=False, unknown=True)
    batches = batches_of(stored_recipe, PUT, steps=12)
    assert tumors_of(batches) > 0
    for batch in batches:
        known = batch.labels.known
        assert known is not None
        assert not known.all()
        assert not (batch.labels.masks.any(1) & ~known).any()


def test_in_stage_2_patches_can_lie_near_organs_that_hold_tumors_alone(stored_recipe) -> None:
    near = ["sampling.near_hosts=true", PUT, "batch={stored: 1, synthetic: 1, phantoms: 1}"]
    recipe = load_recipe(stored_recipe, near)
    hosts = {find(name).id for name in ("Liver", "Right Kidney", "Left Kidney")}
    for stage, organs, share in ((1, frozenset(), 0.5), (2, hosts, 1.0)):
        (stored, _), (phantoms, _) = open_data(recipe, stage).sources
        assert stored.sampler.balance.organs == organs
        assert set(phantoms.plan(0).near) == hosts
        assert phantoms.plan(0).near_share == share


def test_a_run_s_annotated_classes_are_those_put_in_too(recipe_file) -> None:
    recipe = load_recipe(recipe_file, [PUT])
    assert {find("Liver Tumor").id, find("Kidney Tumor").id} <= open_data(recipe, 1).annotated


@pytest.fixture
def record(tmp_path):
    def make(dataset, *, tumor) -> CaseRecord:
        return store_case(tmp_path, dataset, "tumor" if tumor else "none", tumor=tumor).record

    return make


def test_what_is_annotated_and_not_shown_is_absent_and_nothing_else_is(record) -> None:
    assert absent_in(None, record("lits", tumor=True)) == frozenset()
    assert absent_in(None, record("lits", tumor=False)) == {find("Liver Tumor").id}


def test_a_healthy_data_set_lacks_all_that_is_not_labelled(record) -> None:
    store = Store(path="store", healthy=("mine",))
    assert absent_in(store, record("mine", tumor=True)) == TUMOR_IDS - {find("Liver Tumor").id}
    assert absent_in(store, record("other", tumor=False)) == {find("Liver Tumor").id}


def test_what_a_description_says_is_absent_is_so_beside_what_is_annotated(tmp_path) -> None:
    lung, liver = find("Lung Tumor").id, find("Liver Tumor").id
    stored = store_case(tmp_path, "own", "1", tumor=True, absent=(lung, liver))
    assert absent_in(None, stored.record) == {lung}


def test_a_virtual_data_set_lacks_what_its_bodies_do_not_grow(record) -> None:
    for one in protocol().datasets:
        grown = {find(name).id for name in one.tumors} - {find("Liver Tumor").id}
        assert absent_in(None, record(one.name, tumor=False)) == TUMOR_IDS - grown
    assert np.all([one.name.startswith("virtual_") for one in protocol().datasets])
