"""The patch store: prepared cases, compressed in small blocks so that a random patch is read without the rest.

A folder ``STORE/<data set>/<case>`` holds ``image.b2nd`` (HU, int16, clipped to the store's window), ``labels.b2nd``
(codes), ``sampling.safetensors`` (where each class lies; the scan's fingerprint) and ``case.json`` (all else).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Int16
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dsmseg.datasets.description import Placing
from dsmseg.datasets.fingerprint import SIDE, Fingerprint
from dsmseg.datasets.labelling import class_table, unknown_codes
from dsmseg.errors import InputError
from dsmseg.files import write_json

FORMAT: Literal[1] = 1
BLOCK, CHUNK = 32, 96  # voxels a side: what is decompressed at once, and what lies together (decision 0010)
_LEVEL = 9
_MEND = "Prepare it again."
_IMAGE, _LABELS, _SAMPLING, _RECORD, _STORE = (
    "image.b2nd",
    "labels.b2nd",
    "sampling.safetensors",
    "case.json",
    "store.json",
)

Hounsfield = Annotated[float, Field(ge=-4096, le=32767)]


class Settings(BaseModel):
    """How all cases of a store are prepared: spacing in mm, and the window that HU are clipped to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    spacing_mm: tuple[Annotated[float, Field(gt=0.1, le=10)], ...] = Field((1.5, 1.5, 1.5), min_length=3, max_length=3)
    hu_window: tuple[Hounsfield, Hounsfield] = (-175.0, 250.0)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing in mm, an axis each."""
        x, y, z = self.spacing_mm
        return x, y, z


class SourceFile(BaseModel):
    """A file that a case was made from; of a folder, its files together. state: of names, sizes and times."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bytes: int
    sha256: str
    state: str


class CaseRecord(BaseModel):
    """What is known of a prepared case.

    sources, description: what it was made from; a change of any makes it anew. affine: voxel -> mm RAS of the arrays.
    own_shape, own_affine: the grid of the scan's file. placing: how the labels lay on the scan. sets: the taxonomy ids
    that each code of the labels means. annotated: ids that are known in this case. merged: (right, left) ids of organs
    whose sides could not be told apart. voxels: how many each class has, by id. hu: statistics over the body before
    clipping. accepted: findings that the case was taken in spite of. absent: ids of the kinds of tumor that the scan is
    known to lack, though its labels do not tell of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    dataset: str
    case: str
    sources: tuple[SourceFile, ...]
    description: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    own_shape: tuple[int, int, int]
    own_affine: tuple[tuple[float, ...], ...]
    placing: Placing
    sets: tuple[tuple[int, ...], ...]
    annotated: tuple[int, ...]
    merged: tuple[tuple[int, int], ...]
    voxels: dict[int, int]
    body_ml: float
    hu: dict[str, float]
    accepted: tuple[str, ...] = ()
    absent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array (X, Y, Z) on disk, of which only the blocks that a slice needs are read."""

    path: Path
    shape: tuple[int, int, int]
    _array: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its voxels."""
        kind: np.dtype[Any] = self._array.dtype
        return kind

    @classmethod
    def open(cls, path: Path, shape: tuple[int, int, int], types: Sequence[str]) -> "StoredArray":
        """Open an array of this shape and one of these types.

        Raises:
            InputError: it is missing, damaged, or another array.
        """
        array = _open(path)
        if array.shape != shape or array.dtype.name not in types:
            raise InputError(f"holds {array.dtype} {array.shape}, not {types[0]} {shape}", where=path, mend=_MEND)
        return cls(path, shape, array)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a part.

        Raises:
            InputError: its blocks are damaged.
        """
        try:
            part: NDArray[Any] = self._array[key]
        except RuntimeError as error:
            raise InputError(f"is damaged ({error})", where=self.path, mend=_MEND) from error
        return part


@dataclass(frozen=True)
class StoredCase:
    """A prepared case in its folder."""

    folder: Path
    record: CaseRecord
    settings: Settings

    @property
    def key(self) -> tuple[str, str]:
        """Data set and id."""
        return self.record.dataset, self.record.case

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind on the way to another process."""
        return {"folder": self.folder, "record": self.record, "settings": self.settings}

    def is_whole(self) -> bool:
        """Tell whether all its files are there and can be opened."""
        try:
            return self.fingerprint.size > 0 and self.image.shape == self.codes.shape
        except InputError:
            return False

    @property
    def name(self) -> str:
        """Data set and id as one word."""
        return "/".join(self.key)

    @cached_property
    def image(self) -> StoredArray:
        """HU, int16 (X, Y, Z) in RAS, read where it is sliced."""
        return StoredArray.open(self.folder / _IMAGE, self.record.shape, ("int16",))

    @cached_property
    def codes(self) -> StoredArray:
        """Label codes (X, Y, Z), read where they are sliced; ``table`` tells what they mean."""
        return StoredArray.open(self.folder / _LABELS, self.record.shape, ("uint8", "uint16"))

    @cached_property
    def table(self) -> Bool[NDArray[np.bool_], "code class"]:
        """Tell of each code which of the 45 classes it means (class 1 is at index 0)."""
        return class_table(self.record.sets)

    @cached_property
    def unknown_codes(self) -> Bool[NDArray[np.bool_], "code"]:
        """Tell which codes mean that nothing is known."""
        return unknown_codes(self.record.sets)

    def mask(self, class_id: int) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark all voxels of a class."""
        marked: NDArray[np.bool_] = self.table[:, class_id - 1][self.codes[:]]
        return marked

    @cached_property
    def _sampling(self) -> Mapping[str, NDArray[Any]]:
        path = self.folder / _SAMPLING
        try:
            tensors = load_file(path)
            prints = tensors["fingerprint"]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise InputError("is missing or damaged", where=path, mend=_MEND) from error
        places = [tensor for name, tensor in tensors.items() if name != "fingerprint"]
        lie_inside = all(
            one.ndim == 2 and one.shape[1] == 3 and (one >= 0).all() and (one < self.record.shape).all()
            for one in places
        )
        if prints.shape != (SIDE, SIDE, SIDE) or not lie_inside:
            raise InputError("is of another case", where=path, mend=_MEND)
        return tensors

    def locations(self, class_id: int) -> Int16[NDArray[np.int16], "n 3"]:
        """Give voxels of a class, evenly drawn from all it has; none where it has none."""
        return self._sampling.get(f"locations/{class_id}", np.zeros((0, 3), np.int16))

    @property
    def fingerprint(self) -> Fingerprint:
        """The content of the scan before it was cropped."""
        return self._sampling["fingerprint"]


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of prepared cases, all with the same settings."""

    folder: Path
    settings: Settings

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """Open a store that `prepare` has made.

        Raises:
            InputError: the folder is no store, or of another version.
        """
        path = Path(folder) / _STORE
        try:
            return cls(Path(folder), Settings.model_validate_json(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(
                "is no store", where=folder, mend="Make one: dsmseg datasets prepare DIR -o STORE."
            ) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise InputError(
                "is damaged or of another version", where=path, mend="Prepare into a new folder."
            ) from error

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> "Store":
        """Open the store in ``folder``, or begin it.

        Raises:
            InputError: it was prepared with other settings, or the folder holds something else.
            OutputError: the folder cannot be written to.
        """
        if (folder / _STORE).exists():
            store = cls.open(folder)
            if store.settings != settings:
                raise InputError(
                    f"was prepared with {_told(store.settings)}, not {_told(settings)}",
                    where=folder,
                    mend="Choose another folder, or the same settings.",
                )
            return store
        if folder.exists() and (not folder.is_dir() or any(not one.name.startswith(".") for one in folder.iterdir())):
            raise InputError("holds something else than a store", where=folder, mend="Choose a new or empty folder.")
        write_json(folder / _STORE, settings.model_dump(mode="json"))
        return cls(folder, settings)

    def case_folder(self, dataset: str, case: str) -> Path:
        """Where a case lies."""
        return self.folder / dataset / case

    def read_case(self, dataset: str, case: str) -> StoredCase | None:
        """Give one case; None where it is not there whole."""
        try:
            return self._read(self.case_folder(dataset, case))
        except InputError:
            return None

    def cases(self) -> list[StoredCase]:
        """Give all cases, by data set and id.

        Raises:
            InputError: a case's record is damaged.
        """
        return [self._read(folder) for folder in self.case_folders()]

    def whole_cases(self) -> list[StoredCase]:
        """Give the cases that can be read; those that are damaged are passed over."""
        read = [self.read_case(folder.parent.name, folder.name) for folder in self.case_folders()]
        return [one for one in read if one is not None and one.is_whole()]

    def case_folders(self, dataset: str = "[!.]*") -> list[Path]:
        """Give the folders that hold a record: of one data set, or of all, in order."""
        return [path.parent for path in sorted(self.folder.glob(f"{dataset}/[!.]*/{_RECORD}"))]

    def _read(self, folder: Path) -> StoredCase:
        path = folder / _RECORD
        try:
            return StoredCase(folder, CaseRecord.model_validate_json(path.read_bytes()), self.settings)
        except (OSError, ValidationError) as error:
            raise InputError("is damaged or of another version", where=path, mend=_MEND) from error


def write_case(
    folder: Path,
    record: CaseRecord,
    *,
    image: Int16[NDArray[np.int16], "x y z"],
    codes: NDArray[np.integer],
    locations: Mapping[int, Int16[NDArray[np.int16], "n 3"]],
    fingerprint: Fingerprint,
) -> None:
    """Write the files of a case into ``folder``, which exists. The same input gives the same bytes.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    try:
        _write_arrays(folder, image, codes, locations, fingerprint)
    except (RuntimeError, SafetensorError) as error:  # their libraries have no other word for a full disk
        raise OSError(str(error)) from error
    write_json(folder / _RECORD, record.model_dump(mode="json"))


def _write_arrays(
    folder: Path,
    image: NDArray[Any],
    codes: NDArray[Any],
    locations: Mapping[int, NDArray[Any]],
    fingerprint: Fingerprint,
) -> None:
    _save(folder / _IMAGE, image, shuffled=True)
    _save(folder / _LABELS, codes, shuffled=False)
    tensors = {f"locations/{one}": places for one, places in sorted(locations.items())} | {"fingerprint": fingerprint}
    # safetensors writes memory as it lies, whatever the strides say.
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / _SAMPLING)


def record_path(folder: Path) -> Path:
    """The file of a case that is written last."""
    return folder / _RECORD


def require_blosc2() -> Any:
    """Give the library that compresses.

    Raises:
        InputError: it is not installed.
    """
    try:
        import blosc2
    except ImportError as error:
        raise InputError("a store needs blosc2", mend='Install it: pip install "dsmseg[datasets]"') from error
    return blosc2


def _save(path: Path, array: NDArray[Any], *, shuffled: bool) -> None:
    blosc2 = require_blosc2()

    chunks = tuple(min(CHUNK, size) for size in array.shape)
    blocks = tuple(min(BLOCK, size) for size in chunks)
    parameters = blosc2.CParams(
        codec=blosc2.Codec.LZ4HC,
        clevel=_LEVEL,
        # Codes are long runs of one byte, which a filter only stirs.
        filters=[blosc2.Filter.SHUFFLE if shuffled else blosc2.Filter.NOFILTER],
        nthreads=1,
        typesize=array.itemsize,
    )
    blosc2.asarray(
        np.ascontiguousarray(array), urlpath=str(path), mode="w", chunks=chunks, blocks=blocks, cparams=parameters
    )


def _open(path: Path) -> Any:
    blosc2 = require_blosc2()

    try:
        array = blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
    except Exception as error:  # blosc2 has no exception of its own for a damaged file
        raise InputError(f"cannot be read ({error})", where=path, mend=_MEND) from error
    if not isinstance(array, blosc2.NDArray):
        raise InputError("is no array", where=path, mend=_MEND)
    return array


def _told(settings: Settings) -> str:
    spacing = " x ".join(f"{step:g}" for step in settings.spacing_mm)
    return f"{spacing} mm and HU {settings.hu_window[0]:g} to {settings.hu_window[1]:g}"


def as_rows(affine: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """Give an affine as JSON holds it."""
    return tuple(tuple(float(one) for one in row) for row in affine)
