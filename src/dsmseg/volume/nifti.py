"""NIfTI in and out, through nibabel."""

import gzip
import json
import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.nifti1 import Nifti1Extension
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.files import replacing
from dsmseg.volume.checks import check_real_numbers, spatial_shape
from dsmseg.volume.grid import Grid, Volume
from dsmseg.volume.stored import Stored

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    OverflowError,
    zlib.error,
    HeaderDataError,
    ImageFileError,
    WrapStructError,
)
_WRITABLE = tuple(np.dtype(name) for name in ("uint8", "uint16", "int16", "int32", "float32"))
_HEADER_BYTES = 540
_COMMENT = 6
_CHUNK_BYTES = 1 << 20
_LARGEST_GZIP_RATIO = 1032  # a byte of deflate holds at most four runs of 258 bytes


def read_nifti(path: Path) -> Stored:
    """Read a NIfTI-1 or NIfTI-2 file (.nii, .nii.gz), to its last byte so that a damaged .gz is found out.

    The sform is preferred over the qform. The scaling of the header is handed over, not applied.

    Raises:
        InputError: damaged, cut short, more than one volume, not real numbers, or without an orientation.
    """
    with _opened(path) as stream, _quiet, np.errstate(all="ignore"), _finding_damage(path):
        image, spatial, affine = _checked(stream, path)
        array = image.dataobj.get_unscaled().reshape(spatial, order="F")
        while stream.read(_CHUNK_BYTES):
            pass
    return Stored(array, affine, float(image.dataobj.slope), float(image.dataobj.inter))


def read_nifti_grid(path: Path) -> Grid:
    """Read the grid of a NIfTI file from its first bytes; the same is refused as in `read_nifti`, as far as they tell.

    Raises:
        InputError: damaged, more than one volume, not real numbers, or without an orientation.
    """
    with _opened(path) as stream, _finding_damage(path):
        start = stream.read(_HEADER_BYTES)
        if known := _image_of_start(start):
            shape, affine = _check(known, path)
        else:  # a header with extensions, or a damaged one
            stream.seek(0)
            with _quiet, np.errstate(all="ignore"):
                _, shape, affine = _checked(stream, path)
    return Grid(shape, affine.copy())


def read_nifti_comments(path: Path) -> list[str]:
    """Read the comments (extensions of code 6) of a NIfTI header; what is not text is passed over.

    Raises:
        InputError: damaged.
    """
    with _opened(path) as stream, _quiet, _finding_damage(path):
        extensions = _image(stream).header.extensions
    content = [one.get_content() for one in extensions if one.get_code() == _COMMENT]
    return [one if isinstance(one, str) else bytes(one).rstrip(b"\0").decode("utf-8", "replace") for one in content]


def write_nifti(
    path: Path, array: NDArray[Any], volume: Volume, *, names: Mapping[int, str] | None = None, slope: float = 1.0
) -> None:
    """Write an array (X, Y, Z) of ``volume``'s grid to .nii or .nii.gz, on the grid of the scan's file, atomically.

    The type of the array is kept (bool becomes uint8). The sform is the scan's affine; the qform says the same
    where it can, and is marked unknown where the axes are not at right angles, since it cannot hold that.
    ``names`` (label -> name) go into a comment extension as JSON: ``{"labels": {"1": "spleen"}}``. Readers multiply
    what is stored by ``slope``.

    Raises:
        InputError: another extension, shape or type than can be written.
        OutputError: the place cannot be written to.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError("is not a name for NIfTI", where=path, mend="End it in .nii.gz or .nii.")
    own = volume.to_own(array.view(np.uint8) if array.dtype == np.bool_ else array)
    if own.dtype not in _WRITABLE:
        raise InputError(
            f"an array of {own.dtype} is not written", where=path, mend="Give uint8, uint16, int16, int32 or float32."
        )
    header = nibabel.Nifti1Header()
    header.set_data_dtype(own.dtype)
    header.set_data_shape(own.shape)
    header.set_xyzt_units("mm")
    if names is not None:
        labels = {"labels": {str(value): name for value, name in sorted(names.items())}}
        header.extensions.append(Nifti1Extension("comment", json.dumps(labels, ensure_ascii=False).encode()))
    image = nibabel.Nifti1Image(own, None, header)
    _set_affine(image, volume.own.affine)
    image.header.set_slope_inter(slope, 0.0)  # set, so that nibabel writes the array as it is
    with replacing(path) as temporary, _quiet:
        image.to_filename(temporary)


@contextmanager
def _finding_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(
            "is damaged, cut short, or not the NIfTI file its name says",
            where=path,
            mend="Copy or convert it again.",
        ) from error


def _checked(stream: BinaryIO, path: Path) -> tuple[nibabel.Nifti1Image, tuple[int, int, int], NDArray[np.float64]]:
    """Give the image without its voxels, its three sizes and its affine."""
    image = _image(stream)
    return image, *_check(image, path)


def _check(image: nibabel.Nifti1Image, path: Path) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    shape = spatial_shape(image.shape, path)
    check_real_numbers(image.get_data_dtype(), path)
    affine = _oriented_affine(image, path)
    _check_length(image, path)
    return shape, affine


@lru_cache(maxsize=256)
def _image_of_start(start: bytes) -> nibabel.Nifti1Image | None:
    """Give the image that a file's first bytes describe; many files of a data set begin with the same."""
    with _quiet, np.errstate(all="ignore"):
        try:
            return _image(BytesIO(start))
        except _DAMAGE:
            return None


def _opened(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def _image(stream: BinaryIO) -> nibabel.Nifti1Image:
    start = stream.read(_HEADER_BYTES)
    stream.seek(0)
    second_version = nibabel.Nifti2Header.may_contain_header(start)
    kind = nibabel.Nifti2Image if second_version else nibabel.Nifti1Image
    # A memory map would let a later change of the file reach into the volume.
    return kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)


def _check_length(image: nibabel.Nifti1Image, path: Path) -> None:
    """Compare the header's claim with the file before memory is taken for it."""
    needed = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    ratio = _LARGEST_GZIP_RATIO if path.name.lower().endswith(".gz") else 1
    if needed > path.stat().st_size * ratio:
        raise EOFError


def _oriented_affine(image: nibabel.Nifti1Image, path: Path) -> NDArray[np.float64]:
    header = image.header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise InputError(
            "says nothing about its orientation (sform and qform codes are both 0), so left and right are unknown",
            where=path,
            mend="Convert it again from its DICOM, or set the affine and its code if you know them.",
        )
    return np.asarray(image.affine, dtype=np.float64)


def _set_affine(image: nibabel.Nifti1Image, affine: NDArray[np.float64]) -> None:
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner", strip_shears=True)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code="unknown")


class _Quiet:
    """Keeps nibabel and what it calls from logging and warning, until the last of several threads has left."""

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._undo.callback(nibabel_logger.setLevel, nibabel_logger.level)
                nibabel_logger.setLevel(logging.CRITICAL + 1)
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()


_quiet = _Quiet()
