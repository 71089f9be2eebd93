"""What grows while the sliding window runs: labels and scores on the scan's own grid, slab by slab.

The anomaly comes at the end, since it compares voxels with whole organs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from dsmseg.inference.anomaly import anomaly_map
from dsmseg.inference.blending import Slab
from dsmseg.inference.boxes import Box
from dsmseg.inference.choosing import Choice
from dsmseg.inference.framing import Frame
from dsmseg.inference.lesions import drop_weak
from dsmseg.inference.postprocessing import Claims, confine_to_hosts, drop_fragments, far_from_hosts
from dsmseg.inference.restoring import Interpolation, Restoring, restore_field, restore_labels
from dsmseg.taxonomy import StructureClass
from dsmseg.volume import Grid

_NO_CLASS = 0


class Layers:
    """Layers of one scan. Arrays are (z, y, x), uint8: labels are ids of classes, levels are steps of 1/255.

    Attributes:
        organs: label map of all organs that were computed.
        tumors: label map.
        tumor_levels: the probability of the tumor that is labeled; None where none was searched.
        unexplained_levels: 1 + A of Eq. 14.
        anomaly_levels: `anomaly_map`; empty until ``finish``.
    """

    def __init__(self, choice: Choice, frame: Frame, own: Grid) -> None:
        """Begin with empty layers on the grid ``own``, for slabs of ``frame``."""
        self._choice, self._frame, self._own = choice, frame, own
        self._interpolation = Interpolation.between(frame.grid, own)
        self._restoring = Restoring(self._interpolation)
        self._claims = Claims(choice.computed_organs, frame.grid.shape[::-1])
        shape = self._interpolation.target_shape
        self.organs = np.zeros(shape, dtype=np.uint8)
        self.tumors = np.zeros(shape, dtype=np.uint8)
        self.tumor_levels = np.zeros(shape, dtype=np.uint8) if choice.tumors else None
        self.unexplained_levels = np.zeros(shape, dtype=np.uint8)
        self.anomaly_levels: UInt8[NDArray[np.uint8], "z y x"] = np.zeros((0, 0, 0), dtype=np.uint8)

    def add(self, slab: Slab) -> None:
        """Restore what a slab of the working grid completes."""
        organs, tumors = self._choice.computed_organs, self._choice.tumors
        rows, interpolation = self._restoring.advance(slab.start, slab.stop)
        boxes = self._claims.add(slab.organs, slab.start)
        restore_labels(slab.organs, _ids(organs, len(slab.organs)), boxes, interpolation, self.organs[rows])
        if self.tumor_levels is not None:
            ids, boxes = _ids(tumors, len(slab.tumors)), slab.tumors.boxes()
            restore_labels(slab.tumors, ids, boxes, interpolation, self.tumors[rows], self.tumor_levels[rows])
        restore_field(slab.anomaly.backwards(0), interpolation, self.unexplained_levels[rows])

    def finish(self) -> None:
        """Erase what anatomy speaks against and weak lesions, then compare every voxel with its organ."""
        drop_fragments(self.organs, self._claims, self._choice.computed_organs, self._interpolation)
        self._erase_tumors()
        anomaly, grid = anomaly_map(self._frame, self._claims, self._choice.computed_organs)
        self.anomaly_levels = np.zeros(self._interpolation.target_shape, dtype=np.uint8)
        field = torch.from_numpy(np.ascontiguousarray(anomaly.T))
        restore_field(field, Interpolation.between(grid, self._own), self.anomaly_levels)

    def far_from_hosts(self, tumor: StructureClass, box: Box) -> Bool[NDArray[np.bool_], "z y x"] | None:
        """Mark where, in a box of the working grid, a tumor would be erased; None where its hosts are not known."""
        return far_from_hosts(tumor, self._hosts(), self._claims, box, self._frame.grid.spacing)

    def _erase_tumors(self) -> None:
        if self.tumor_levels is None:
            return
        tumors, spacing = self._choice.tumors, self._frame.grid.spacing
        confine_to_hosts(self.tumors, tumors, self._hosts(), self._claims, self._interpolation, spacing)
        points = {one.id: self._choice.point(one) for one in tumors}
        drop_weak(self.tumors.T, self.tumor_levels.T, tumors, points, self._own.voxel_volume_ml)

    def _hosts(self) -> dict[str, StructureClass]:
        return {organ.name: organ for organ in self._choice.computed_organs}


def _ids(classes: Sequence[StructureClass], fields: int) -> list[int]:
    """Label each field by its class; one more field, that of all other classes, takes the label away."""
    return [one.id for one in classes] + [_NO_CLASS] * (fields - len(classes))
