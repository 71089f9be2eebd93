"""Held-out scans with drawn tumors in them: what makes some dozens of lesions of a few scans."""

import numpy as np
from numpy.random import Generator

from dsmseg.checkpoint import Card
from dsmseg.datasets.labelled import Labelled
from dsmseg.datasets.labelling import UNKNOWN, ClassLabels, class_masks, unknown_codes
from dsmseg.synthesis.tumors.patches import LabelledPatch, put_one_of_each
from dsmseg.taxonomy import CLASSES, TUMORS
from dsmseg.volume import Volume, resample, resample_onto


def plant(case: Labelled, card: Card, random: Generator) -> Labelled | None:
    """Give a copy of a scan, at the weights' spacing, with a tumor of each kind that it lacks and the weights know.

    A kind is known to be lacking where it is labelled and not shown, or ``case.absent``. The copy's labels tell of the
    tumors put in alone. None where no tumor can be put in. It takes 45 bytes a voxel of that spacing.

    Args:
        case: a scan with labels of organs.
        card: of the weights, for their spacing and kinds of tumor.
        random: the stream of chance.
    """
    x, y, z = card.spacing_mm
    image = resample(case.image, (x, y, z))
    labels = case.labels
    codes = resample_onto(Volume(labels.codes, case.image.affine, case.image.grid), image.grid, nearest=True).array
    masks = class_masks(codes, labels.table)
    annotated = np.zeros(len(CLASSES), np.bool_)
    annotated[[id - 1 for id in labels.annotated]] = True
    unknown = unknown_codes(labels.sets)
    patch = LabelledPatch(
        image=image.array,
        masks=masks,
        annotated=annotated,
        absent=case.absent,
        spacing=image.spacing,
        merged=tuple((left - 1, right - 1) for right, left in labels.merged),
        known=~unknown[codes] if unknown.any() else None,
    )
    shown = {one.id for one in TUMORS if masks[one.id - 1].any()}
    kinds = tuple(one for one in TUMORS if one.name in card.tumors and one.id not in shown)
    grown = put_one_of_each(patch, kinds, random)
    planted = [one.id for one in kinds if grown.masks[one.id - 1].any()]
    if not planted:
        return None
    found = np.zeros(codes.shape, np.uint8)
    if grown.known is not None:
        found[~grown.known] = len(planted) + 1
    for code, id in enumerate(planted, 1):
        found[grown.masks[id - 1]] = code
    sets = ((), *((id,) for id in planted), (UNKNOWN,))
    return Labelled(Volume(grown.image, image.affine, image.grid), ClassLabels(found, sets, tuple(sorted(planted))))
