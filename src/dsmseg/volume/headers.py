"""Where a file's voxels lie, from its header alone."""

from pathlib import Path

from dsmseg.errors import InputError
from dsmseg.volume.checks import check_grid
from dsmseg.volume.dicom import read_dicom_grid
from dsmseg.volume.grid import Grid
from dsmseg.volume.itk import read_itk_grid
from dsmseg.volume.nifti import read_nifti_grid


def read_grid(path: Path) -> Grid:
    """Read the grid of a .nii(.gz), .nrrd, .mha or .mhd file, or of a DICOM folder, without its voxels.

    The grid is the file's own, in its own order of axes.

    Raises:
        InputError: missing, damaged as far as the header shows, of an unknown kind, or without a known place in space.
    """
    name = path.name.lower()
    try:
        if path.is_dir():
            grid = read_dicom_grid(path)
        elif not path.exists():
            raise InputError("does not exist", where=path, mend="Check the path.")
        elif path.stat().st_size == 0:
            raise InputError("is an empty file", where=path, mend="Copy or convert it again.")
        elif name.endswith((".nii", ".nii.gz")):
            grid = read_nifti_grid(path)
        elif name.endswith((".nrrd", ".mha", ".mhd")):
            grid = read_itk_grid(path)
        else:
            raise InputError("is not of a known kind", where=path, mend="Convert it to NIfTI.")
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror or error})", where=path, mend="Check the path and its permissions."
        ) from error
    check_grid(grid.shape, grid.affine, path)
    return grid
