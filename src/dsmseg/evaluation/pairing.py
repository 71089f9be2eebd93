"""Finding label maps, and which prediction belongs to which reference: by their names."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dsmseg.datasets.layout import case_order
from dsmseg.errors import InputError
from dsmseg.evaluation.labels import LAYERS
from dsmseg.volume import VOLUME_SUFFIXES, is_ignored_name

_LABELS_FOLDER = "labelsTr"
_ANOMALY = "anomaly"
_CHANNEL = re.compile(r"_0000$")
# What data sets write beside the number of a case, such as volume-3 and segmentation-3.
_ROLE = re.compile(
    r"(?i)(?<![a-z])(?:ct|gt|images?|imaging|img|labels?|masks?|preds?|predictions?|scans?|seg|segmentations?|volume)(?![a-z])"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The maps of one case.

    Attributes:
        name: of the case. layers: label maps that may overlap, or one map. anomaly: score map, if there is one.
    """

    name: str
    layers: tuple[Path, ...]
    anomaly: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files."""
        return self.layers if self.anomaly is None else (*self.layers, self.anomaly)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Predictions with their references.

    Attributes:
        pairs: of each reference its prediction, or None where it has none. extra: predictions without a reference.
    """

    pairs: tuple[tuple[Source, Source | None], ...]
    extra: tuple[Source, ...]


def find_sources(path: Path) -> list[Source]:
    """Find the cases at a path: a file, a case folder of dsmseg, or a folder of either; of a data set its ``labelsTr``.

    Raises:
        InputError: there is none, or two have the same name.
    """
    try:
        found = _sources(path)
    except OSError as error:
        told = f"cannot be read ({error.strerror or error})"
        raise InputError(told, where=path, mend="Check the path and its permissions.") from error
    repeated = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if repeated:
        raise InputError(f"holds {repeated[0]} twice", where=path, mend="Keep one map a case.")
    if not found:
        raise InputError(
            "holds no label maps",
            where=path,
            mend=f"Give a file or a folder of {', '.join(VOLUME_SUFFIXES)}, or of case folders of dsmseg predict.",
        )
    return sorted(found, key=lambda one: case_order(one.name))


def pair(predictions: Iterable[Source], references: Iterable[Source]) -> Pairs:
    """Find the prediction of each reference, by name; one of each belong together whatever they are called.

    Where no name is in both, words such as ``volume``, ``segmentation`` and ``label`` make no difference.

    Raises:
        InputError: no prediction has a reference.
    """
    predictions, references = list(predictions), list(references)
    if len(predictions) == len(references) == 1:
        return Pairs(((references[0], predictions[0]),), ())
    by_name = {one.name: one for one in predictions}
    keys = {one.name: one.name for one in references}
    if not by_name.keys() & keys.keys():
        by_name, keys = _bare(by_name), {one.name: _bare_name(one.name) for one in references}
    pairs = tuple((one, by_name.get(keys[one.name])) for one in references)
    taken = {id(prediction) for _, prediction in pairs}
    if taken == {id(None)}:
        raise InputError(
            f"no prediction ({predictions[0].name}, ...) is called like a reference ({references[0].name}, ...)",
            mend="Give both the same file names.",
        )
    return Pairs(pairs, tuple(one for one in predictions if id(one) not in taken))


def case_name(path: Path) -> str:
    """Give the name of a case: of its file or folder, without extension and channel (``_0000``)."""
    name = path.name
    suffix = next((one for one in (".seg.nrrd", *VOLUME_SUFFIXES) if name.lower().endswith(one)), "")
    return _CHANNEL.sub("", name[: len(name) - len(suffix)]) or name


def _sources(path: Path) -> list[Source]:
    if path.is_file():
        return [Source(case_name(path), (path,))]
    if not path.is_dir():
        raise InputError("does not exist", where=path, mend="Check the path.")
    if (path / _LABELS_FOLDER).is_dir():
        return _sources(path / _LABELS_FOLDER)
    if own := _case_folder(path):
        return [own]
    found = []
    for entry in sorted(path.iterdir()):
        if is_ignored_name(entry.name):
            continue
        if entry.is_dir():
            found += [own] if (own := _case_folder(entry)) else []
        elif entry.name.lower().endswith(VOLUME_SUFFIXES):
            found.append(Source(case_name(entry), (entry,)))
    return found


def _case_folder(folder: Path) -> Source | None:
    """Give the layers of a folder that `dsmseg predict`, or `dsmseg synth`, has written."""
    layers = tuple(path for layer in LAYERS if (path := _map(folder, layer)))
    if not layers and any((folder / f"{layer}.dcm").is_file() for layer in LAYERS):
        raise InputError(
            "holds DICOM SEG", where=folder, mend="Predict once more with --format nifti, or convert it to NIfTI."
        )
    return Source(case_name(folder.resolve()), layers, _map(folder, _ANOMALY)) if layers else None


def _map(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in VOLUME_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None) or next(
        iter(folder.glob(f"{stem}.seg.nrrd")), None
    )


def _bare(named: Mapping[str, Source]) -> dict[str, Source]:
    bare = {_bare_name(name): one for name, one in named.items()}
    return bare if len(bare) == len(named) else {}


def _bare_name(name: str) -> str:
    return re.sub(r"[-_. ]+", "_", _ROLE.sub("", name)).strip("_")
