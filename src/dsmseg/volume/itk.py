"""NRRD and MetaImage, through SimpleITK."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from SimpleITK import GetArrayFromImage, Image, ImageFileReader

from dsmseg.errors import InputError
from dsmseg.volume.checks import not_one_number, spatial_shape
from dsmseg.volume.grid import Grid
from dsmseg.volume.itk_data import check_metaimage_data, check_nrrd_data, damaged
from dsmseg.volume.native import native_name, quiet_native_code
from dsmseg.volume.stored import Stored

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BAD_GRID = ("Bad direction", "spacing is not supported")


def read_nrrd(path: Path) -> Stored:
    """Read a NRRD file whose header names its space.

    Raises:
        InputError: damaged, cut short, more than one volume, colors or vectors, or without an orientation.
    """
    return _read(path, "NrrdImageIO", "NRRD", check_nrrd_data(path))


def read_metaimage(path: Path) -> Stored:
    """Read a MetaImage: .mha, or .mhd with its data file.

    Raises:
        InputError: damaged, cut short, more than one volume, colors or vectors, without spacing or directions, or its
            data file is missing.
    """
    return _read(path, "MetaImageIO", "MetaImage", check_metaimage_data(path))


def read_itk_grid(path: Path) -> Grid:
    """Read the grid of a NRRD or MetaImage file from its header.

    Raises:
        InputError: as `read_nrrd` and `read_metaimage`, as far as the header tells.
    """
    is_nrrd = path.name.lower().endswith(".nrrd")
    voxel_bytes = check_nrrd_data(path) if is_nrrd else check_metaimage_data(path)
    names = ("NrrdImageIO", "NRRD") if is_nrrd else ("MetaImageIO", "MetaImage")
    reader, spatial = _open(path, *names, voxel_bytes)
    return Grid(spatial, _affine(reader))


def _read(path: Path, reader_name: str, format_name: str, voxel_bytes: int | None) -> Stored:
    reader, spatial = _open(path, reader_name, format_name, voxel_bytes)
    with _telling_faults(path, format_name):
        image = reader.Execute()
    array = GetArrayFromImage(image).T.reshape(spatial, order="F")
    return Stored(array, _affine(image))


def _open(
    path: Path, reader_name: str, format_name: str, voxel_bytes: int | None
) -> tuple[ImageFileReader, tuple[int, int, int]]:
    """Read and check the header; give the reader and the three sizes."""
    reader = ImageFileReader()
    reader.SetImageIO(reader_name)
    reader.SetFileName(native_name(path))
    with _telling_faults(path, format_name):
        reader.ReadImageInformation()
    spatial = spatial_shape(reader.GetSize(), path)
    if reader.GetNumberOfComponents() != 1:
        raise not_one_number(path)
    if format_name == "NRRD":
        _check_space(reader, path)
    if min(reader.GetSpacing()) <= 0:
        raise _bad_grid(path)
    if voxel_bytes is not None and _needed_bytes(reader) > voxel_bytes:
        raise damaged(path, format_name)
    return reader, spatial


@contextmanager
def _telling_faults(path: Path, format_name: str) -> Iterator[None]:
    try:
        with quiet_native_code():
            yield
    except RuntimeError as error:
        if any(text in str(error) for text in _BAD_GRID):
            raise _bad_grid(path) from error
        raise damaged(path, format_name) from error


def _needed_bytes(reader: ImageFileReader) -> int:
    bytes_a_voxel: int = Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    voxels: int = math.prod(reader.GetSize())
    return voxels * bytes_a_voxel


def _affine(image: Image | ImageFileReader) -> NDArray[np.float64]:
    axes = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(axes, axes)[:3, :3]
    affine[:3, :3] = direction * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return LPS_TO_RAS @ affine


def _check_space(reader: Any, path: Path) -> None:
    # ITK turns every anatomical space into this one, and leaves the key out where the header names none.
    if not reader.HasMetaDataKey("NRRD_space") or reader.GetMetaData("NRRD_space") != "left-posterior-superior":
        raise InputError(
            "names no anatomical space, so left and right are unknown",
            where=path,
            mend="Convert it again from its DICOM, or add 'space' and 'space directions' if you know them.",
        )


def _bad_grid(path: Path) -> InputError:
    return InputError(
        "has voxel axes or a spacing that cannot place it in space",
        where=path,
        mend="Correct the spacing and directions in the header, or convert it again from its DICOM.",
    )
