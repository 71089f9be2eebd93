"""How far each voxel is from the center of its organ, and what Stage 2 makes of it."""

from dataclasses import replace
from math import log

import pytest
import torch

from dsmseg.model import PRESETS, DSMOutput, Readings, answered_in_hosts, build
from dsmseg.model.deviation_branch import DeviationBranch, center_deviations
from dsmseg.model.losses import PartialLabels, any_tumor_loss

SIDE = 32
LIVER, SPLEEN = 1, 4


def two_organs() -> tuple[torch.Tensor, torch.Tensor]:
    """Give an image with two organs, of 0.6 and 0.3, side by side along x with a gap, and their logits."""
    image = torch.full((1, 1, SIDE, SIDE, SIDE), 0.1)
    image[:, :, :12], image[:, :, 20:] = 0.6, 0.3
    logits = torch.full((1, 6, SIDE, SIDE, SIDE), -4.0)
    logits[:, LIVER, :12], logits[:, SPLEEN, 20:] = 3.0, 2.0
    return image, logits


def test_a_voxel_deviates_from_the_center_of_the_organ_that_claims_it_in_tenths_of_the_window():
    image, logits = two_organs()
    image[:, :, 4:6, 4:6, 4:6] = 0.45  # a dark lesion in the first
    image[:, :, 26:28, 4:6, 4:6] = 0.42  # a bright one in the second
    deviation, inside = center_deviations(image, logits)[0, :2]
    assert float(deviation[5, 5, 5]) == pytest.approx(-1.5, abs=1e-5)
    assert float(deviation[27, 5, 5]) == pytest.approx(1.2, abs=1e-5)
    assert abs(float(deviation[0, 0, 0])) < 1e-5
    assert float(inside[5, 5, 5]) == pytest.approx(0.953, abs=1e-3)  # of a logit of 3
    assert float(inside[27, 5, 5]) == pytest.approx(0.881, abs=1e-3)


def test_what_no_organ_claims_has_no_distance_and_what_is_far_is_cut():
    image, logits = two_organs()
    image[:, :, :2, :2, :2] = 0.0
    deviation, inside = center_deviations(image, logits)[0, :2]
    assert not inside[12:20].any()
    assert not deviation[12:20].any()
    assert float(deviation[0, 0, 0]) == -3.0  # six tenths below the center


def test_of_two_organs_the_one_that_claims_more_explains_a_voxel_not_the_one_that_looks_more_like_it():
    image, logits = two_organs()
    image[:, :, 8:10] = 0.3  # in the liver, but as bright as the spleen
    logits[:, SPLEEN, 8:10] = 1.0
    deviation = center_deviations(image, logits)[0, 0]
    assert float(deviation[9, 0, 0]) == pytest.approx(-3.0)


def test_a_center_is_of_the_core_of_an_organ_so_a_thick_rind_of_fat_does_not_move_it():
    image, logits = two_organs()
    logits[:, LIVER, 12:13] = 3.0  # the mask has a layer of what is not liver
    deviation, inside = center_deviations(image, logits)[0, :2]
    assert inside[12, 0, 0] > 0.9
    assert abs(float(deviation[0, 0, 0])) < 1e-5


def test_what_an_organ_claims_faintly_has_a_distance_but_no_part_in_the_center():
    image, logits = two_organs()
    image[:, :, 6:12], logits[:, LIVER, 6:12] = 0.4, -1.0  # half of it, less sure than not
    deviation, inside = center_deviations(image, logits)[0, :2]
    assert float(deviation[8, 5, 5]) == pytest.approx(-2.0, abs=1e-5)
    assert float(inside[8, 5, 5]) == pytest.approx(0.269, abs=1e-3)


def test_means_over_neighbors_leave_out_what_no_organ_claims_and_are_told_relative_to_the_organ_s_spread():
    image, logits = two_organs()
    noise = torch.randn(1, 1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    image = image + torch.where((logits > 0).any(1, keepdim=True), 0.05 * noise, 0.0)  # half a unit
    image[:, :, 2:9, 2:9, 2:9] -= 0.05
    _, share, near, close, close_relative, wide_relative = center_deviations(image, logits)[0]
    lesion, liver = (slice(3, 8),) * 3, (slice(0, 12),)
    assert float(close[lesion].mean()) == pytest.approx(-0.5, abs=0.05)
    assert float(wide_relative[5, 5, 5]) == pytest.approx(-1.0, abs=0.2)
    assert float(close[liver].std()) < 0.6 * float(center_deviations(image, logits)[0, 0][liver].std())
    torch.testing.assert_close(close_relative[liver], close[liver] / 0.5, atol=0.1, rtol=0.1)
    assert float(near[11, 5, 5]) == pytest.approx(2 / 3)
    assert not close[share == 0].any()
    assert abs(float(close[11].mean())) < 0.1  # the fat beside it is left out


def test_an_organ_of_a_few_voxels_has_no_center():
    image, logits = two_organs()
    logits[:, LIVER], logits[:, SPLEEN] = -4.0, -4.0
    logits[:, LIVER, :4, :4, :4] = 3.0  # one voxel of stride 4
    assert not center_deviations(image, logits).any()


def test_each_case_of_a_batch_is_explained_by_its_own_organs():
    image, logits = two_organs()
    brighter = image + 0.2
    both = center_deviations(torch.cat([image, brighter]), torch.cat([logits, logits]))
    torch.testing.assert_close(both[0], both[1], atol=1e-4, rtol=0)


def test_the_branch_adds_little_to_the_levels_at_first_and_every_parameter_learns():
    torch.manual_seed(0)
    image, logits = two_organs()
    levels = tuple(torch.randn(1, 8, *[SIDE // stride] * 3) for stride in (32, 16, 8, 4))
    branch = DeviationBranch(windows=1, level_channels=(8, 8, 8, 8))
    seen = branch(image, logits)
    gained = branch.added_to(levels, seen)
    assert [one.shape for one in gained] == [one.shape for one in levels]
    assert seen.half.shape == (1, branch.channels, *[SIDE // 2] * 3)
    assert seen.read.shape == (1, branch.read_channels, *[SIDE] * 3)
    for own, one, changes in zip(levels, gained, (False, False, True, True), strict=True):
        difference = (own - one).abs().max()
        assert (0 < difference < 0.1) if changes else difference == 0
    sum(one.square().mean() for one in (*gained, seen.read, seen.half, seen.any_tumor)).backward()
    assert all(bool(one.grad.any()) for one in branch.parameters())


def test_the_branch_goes_by_organs_that_it_is_told_of_and_by_its_own_where_it_is_told_of_none():
    torch.manual_seed(0)
    config = replace(PRESETS["small"], organs=6, tumors=3)
    network = build(config, torch.randn(9, config.text_width)).train()
    image, seen = torch.rand(1, 2, 64, 64, 32), []
    network.deviation_branch.register_forward_hook(lambda _module, given, _seen: seen.append(given[1]))
    told = torch.zeros(64, 64, 32, dtype=torch.bool)
    told[:30] = True
    network(image)
    network(image, {(0, LIVER): told})
    own, by_label = seen
    torch.testing.assert_close(by_label[0, LIVER], torch.where(told, 10.0, -10.0))
    torch.testing.assert_close(by_label[:, SPLEEN], own[:, SPLEEN])


def test_alone_the_branch_goes_by_labelled_organs_and_learns_with_what_reads_it():
    torch.manual_seed(0)
    config = replace(PRESETS["small"], organs=6, tumors=3)
    network = build(config, torch.randn(9, config.text_width)).train()
    told = torch.zeros(64, 64, 32, dtype=torch.bool)
    told[:30] = True
    image = torch.rand(1, 2, 64, 64, 32)
    output = network(image, {(0, LIVER): told}, branch_alone=True)
    assert output.tumor_logits.shape == (1, 3, 64, 64, 32)
    assert output.tumor_presence is None
    torch.testing.assert_close(output.organ_logits[0, LIVER], torch.where(told, 10.0, -10.0))
    (output.tumor_logits.square().mean() + output.any_tumor.square().mean()).backward()
    learning = {name for name, one in network.named_parameters() if one.grad is not None}
    assert {name.split(".")[0] for name in learning} == {"deviation_branch", "tumor_head", "tumor_decoder"}
    assert {name for name in learning if name.startswith("tumor_decoder")} == {
        "tumor_decoder.tumor_queries", "tumor_decoder.norm.weight", "tumor_decoder.norm.bias",
    }  # fmt: skip
    assert not any("to_levels" in name for name in learning)
    assert not torch.equal(network(image, {}, branch_alone=True).tumor_logits, output.tumor_logits)


def test_without_a_branch_nothing_can_be_answered_by_it_alone():
    config = replace(PRESETS["small"], organs=6, tumors=3, readings=Readings(deviation=False))
    network = build(config, torch.randn(9, config.text_width))
    with pytest.raises(ValueError, match="deviation branch"):
        network(torch.rand(1, 2, 64, 64, 32), branch_alone=True)


@pytest.mark.parametrize("half_masks", [False, True])
def test_tumors_masks_begin_with_what_the_branch_sees_and_next_to_nothing_of_the_backbone(half_masks):
    torch.manual_seed(0)
    config = replace(PRESETS["small"], organs=6, tumors=3, readings=Readings(half_masks=half_masks))
    network = build(config, torch.randn(9, config.text_width))
    backbone, head = network.backbone, network.tumor_head
    sizes = head.kernel[-1].weight.abs().mean(1).detach()
    parts = [backbone.embedding_channels, network.deviation_branch.read_channels]
    parts += [backbone.half_channels] if half_masks else []
    loud = [float(part.mean()) for part in sizes[:-1].split([*parts, len(sizes) - 1 - sum(parts)])]
    of_backbone = [loud[place] for place in ((0, 2) if half_masks else (0,))]
    assert max(of_backbone) < 0.1 * min(one for one in loud if one not in of_backbone)


def labelled(organ: int, tumor: int) -> PartialLabels:
    """Label an organ over half of a patch, with a tumor in it."""
    masks = torch.zeros(1, 6, 8, 8, 8, dtype=torch.bool)
    masks[0, organ, :4] = True
    masks[0, tumor, :2, :2, :2] = True
    annotated = torch.zeros(1, 6, dtype=torch.bool)
    annotated[0, [organ, tumor]] = True
    return PartialLabels(masks, annotated)


def test_any_tumor_learns_in_hosts_of_annotated_kinds_alone_and_both_sides_count_alike():
    labels, hosts = labelled(0, 3), {3: [0], 4: [1]}
    logits = torch.zeros(1, 4, 4, 4, requires_grad=True)
    loss = any_tumor_loss(logits, labels, hosts)
    assert loss.item() == pytest.approx(2 * log(2))  # tumor and host: log 2 each
    loss.backward()
    assert float(logits.grad[0, 0, 0, 0]) == pytest.approx(-0.5)  # the one voxel of stride 2 that is tumor
    assert float(logits.grad[0, :2].clamp(min=0).sum()) == pytest.approx(0.5)
    assert not logits.grad[0, 2:].any()  # beyond the host nothing is known


def test_any_tumor_learns_nothing_where_no_kind_is_annotated():
    labels = labelled(0, 3)
    unknown = replace(labels, annotated=torch.zeros_like(labels.annotated))
    assert float(any_tumor_loss(torch.randn(1, 4, 4, 4), unknown, {3: [0]})) == 0


def test_kinds_without_labels_are_answered_by_what_looks_like_any_tumor_near_their_hosts():
    torch.manual_seed(0)
    config = replace(PRESETS["small"], organs=6, tumors=3)
    network = build(config, torch.randn(9, config.text_width)).eval()
    image = torch.rand(1, 2, 64, 64, 32)
    with torch.no_grad():
        own = network(image)
    answered = answered_in_hosts(own, {2: [LIVER, SPLEEN]})
    torch.testing.assert_close(answered.tumor_logits[:, :2], own.tumor_logits[:, :2], rtol=0, atol=0)
    told = answered.tumor_logits[:, 2, ::2, ::2, ::2]
    assert bool((told <= own.any_tumor).all())  # where no host is near, less
    assert not torch.equal(answered.tumor_logits[:, 2], own.tumor_logits[:, 2])
    assert answered_in_hosts(own, {}) is own


def test_any_tumor_answers_within_two_voxels_of_a_host_and_nowhere_else():
    far = torch.full((1, 6, 16, 16, 16), -9.0)
    far[:, SPLEEN, :4] = 5.0
    output = DSMOutput(
        organ_logits=far,
        presence=torch.zeros(1, 6),
        responses=[],
        anomaly=torch.zeros(1, 4, 4, 4),
        tumor_logits=torch.zeros(1, 3, 16, 16, 16),
        any_tumor=torch.full((1, 8, 8, 8), 2.0),
    )
    answer = answered_in_hosts(output, {1: [LIVER, SPLEEN]}).tumor_logits[0, 1]
    assert bool((answer[:6] == 2.0).all())
    assert bool((answer[6:] == -9.0).all())


def test_without_the_reading_there_is_no_branch():
    config = replace(PRESETS["small"], readings=Readings(deviation=False))
    network = build(config, torch.randn(45, config.text_width))
    assert network.deviation_branch is None
    assert network(torch.rand(1, 2, 64, 64, 32)).any_tumor is None
