"""The pixels of ordered slices, as float32 HU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from SimpleITK import GetArrayViewFromImage, ImageFileReader

from dsmseg.errors import InputError
from dsmseg.volume.dicom.headers import SliceHeader
from dsmseg.volume.native import native_name


def read_pixels(slices: Sequence[SliceHeader], where: Path) -> NDArray[np.float32]:
    """Read slices into one array (column, row, slice), each with its own rescale slope and intercept applied.

    Raises:
        InputError: the pixels of a slice are damaged, or compressed in a way that GDCM cannot read.
    """
    columns, rows = slices[0].sizes
    values = np.empty((len(slices), rows, columns), dtype=np.float32)
    # One by one: a series reader would cast every slice to the pixel type of the first.
    for index, header in enumerate(slices):
        reader = ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(native_name(header.path))
        try:
            image = reader.Execute()  # a name of its own: the view below does not keep the image alive
            values[index] = GetArrayViewFromImage(image).reshape(rows, columns)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"its file {header.name} is damaged, or compressed in a way that cannot be read",
                where=where,
                mend="Copy the series again, or export it uncompressed.",
            ) from error
    return values.T
