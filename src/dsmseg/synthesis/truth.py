"""All that is known of a virtual body, beside what its data set annotates: the 25 organs. For scoring alone.

It lies in a folder of its own, apart from the data sets, and under a name that no layout of a data set matches: neither
``dsmseg datasets prepare`` nor a training finds it, so that a data set's partial labels stay partial.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, LIVER
from dsmseg.taxonomy import ORGANS, StructureClass, find
from dsmseg.volume import Volume, read_labels, write_nifti

FOLDER = "truth"

Mask = Bool[NDArray[np.bool_], "x y z"]
_NAMES = {one.id: one.name for one in ORGANS}


class Body(Protocol):
    """What tells where an organ is, as `dsmseg.synthesis.cases.Case` does."""

    def mask(self, class_id: int) -> Mask:
        """Mark the voxels of a class; an organ's hold its tumors, the liver's its vessels."""


def truth_path(benchmark: Path, dataset: str, case: str) -> Path:
    """Say where a body's organs lie in a benchmark."""
    return benchmark / FOLDER / dataset / f"{case}.organs.nii.gz"


def write_truth(path: Path, body: Body, scan: Volume) -> UInt8[NDArray[np.uint8], "x y z"]:
    """Write the organs of a body on its scan's grid: ids of the taxonomy, hepatic vessels apart from the liver.

    Raises:
        OutputError: it cannot be written.
    """
    organs = np.zeros(scan.array.shape, np.uint8)
    for one in ORGANS:  # by their ids: hepatic vessels are drawn over the liver
        organs[body.mask(one.id)] = one.id
    write_nifti(path, organs, scan, names={one: _NAMES[one] for one in map(int, np.unique(organs)) if one})
    return organs


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The organs of a body, tumors included. organs: (X, Y, Z) in RAS, as `write_truth` wrote them."""

    organs: UInt8[NDArray[np.uint8], "x y z"]

    @classmethod
    def read(cls, path: Path) -> "Truth":
        """Read what `write_truth` wrote.

        Raises:
            InputError: it cannot be read.
        """
        return cls(read_labels(path).array.astype(np.uint8))

    def host(self, tumor: StructureClass) -> Mask:
        """Mark the organs that a kind of tumor grows in."""
        wanted = {find(name).id for name in tumor.hosts}
        if LIVER in wanted:
            wanted.add(HEPATIC_VESSEL)
        marked: Mask = np.isin(self.organs, sorted(wanted))
        return marked
