"""What the labels of a map mean: structures of the taxonomy, by names in the map, in a dataset.json or in an option.

A structure is a class, or both sides of an organ where a data set draws them as one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dsmseg.datasets.description import by_name
from dsmseg.datasets.foreign import homes, ids_by_name, meanings, title_words
from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, StructureClass, by_id, find
from dsmseg.volume import read_label_names

Structure = tuple[int, ...]
"""Taxonomy ids, in order."""

INDEX = "dataset.json"
LAYERS = ("organs", "tumors")


@dataclass(frozen=True, slots=True)
class LabelMeaning:
    """What the labels of a map mean.

    Attributes:
        labels: of each structure. unknown: names that are no structure of the taxonomy.
    """

    labels: Mapping[Structure, frozenset[int]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def classes(self) -> frozenset[int]:
        """Taxonomy ids of all classes that are in a structure."""
        return frozenset(id for structure in self.labels for id in structure)


TAXONOMY = LabelMeaning({(one.id,): frozenset({one.id}) for one in CLASSES})
"""Labels are the ids of the taxonomy."""


def structure_name(structure: Structure) -> str:
    """Give the name of a class, or those of both sides."""
    return " + ".join(by_id(id).name for id in structure)


def is_tumor(structure: Structure) -> bool:
    """Tell whether a structure is a tumor."""
    return by_id(structure[0]).kind == "tumor"


def host_classes(tumor: int) -> frozenset[int]:
    """Give the organs that a tumor is a part of: its main host, on both sides."""
    return frozenset(find(name).id for name in homes(by_id(tumor)))


def meaning_of(names: Mapping[str, tuple[int, ...]], title: str = "") -> LabelMeaning:
    """Look up names, each with its labels; several names of one structure are put together.

    Names are looked up in the taxonomy, then among those of TotalSegmentator (lobes of a lung).
    """
    labels: dict[Structure, frozenset[int]] = {}
    unknown = []
    for name, found in meanings(names, title).items():
        classes = found or _like_totalsegmentator().get(name.replace(" ", "_").casefold(), ())
        sides = {one.side for one in classes}
        if len(classes) == 1 or (len(classes) == 2 and sides == {"left", "right"}):
            structure = tuple(sorted(one.id for one in classes))
            labels[structure] = labels.get(structure, frozenset()) | frozenset(names[name])
        else:
            unknown.append(name)
    apart = {id for structure in labels if len(structure) == 1 for id in structure}
    kept = {one: values for one, values in labels.items() if len(one) == 1 or not apart.issuperset(one)}
    return LabelMeaning(kept, tuple(unknown))


def read_meaning(path: Path, given: LabelMeaning | None) -> LabelMeaning | None:
    """Find what the labels of a map mean.

    In this order: by the names in it; by a dataset.json beside it or one folder above; by the ids of the taxonomy where
    the file is a layer of dsmseg (``organs``, ``tumors``); by what was ``given``. None where nothing tells.

    Raises:
        InputError: the map or the dataset.json cannot be read.
    """
    names = read_label_names(path)
    if names is not None:
        return meaning_of({name: (label,) for label, name in names.items() if label})
    for folder in (path.parent, path.parent.parent):
        if (folder / INDEX).is_file():
            return _read_index(folder / INDEX)
    return TAXONOMY if path.name.partition(".")[0] in LAYERS else given


def parse_meaning(text: str) -> LabelMeaning:
    """Read the meaning of labels from ``1=liver,2=liver tumor``, or from a JSON file of names and labels.

    Raises:
        InputError: it is neither, or names nothing of the taxonomy.
    """
    if text.lower().endswith(".json"):
        meaning = _read_index(Path(text))
    else:
        names: dict[str, tuple[int, ...]] = {}
        for part in text.split(","):
            label, _, name = (one.strip() for one in part.partition("="))
            if not label.isdigit() or not name:
                raise InputError(
                    f"'{part.strip()}' names no label", where="--labels", mend="Write --labels '1=liver,2=liver tumor'."
                )
            names[name] = (*names.get(name, ()), int(label))
        meaning = meaning_of(names)
    if not meaning.labels:
        raise InputError(
            f"{', '.join(meaning.unknown) or text} is no class of the taxonomy",
            where="--labels",
            mend="Use names as `dsmseg weights show starter` lists them, such as liver or liver tumor.",
        )
    return meaning


@cache
def _read_index(path: Path) -> LabelMeaning:
    """Read a dataset.json of nnU-Net or MSD, or a JSON that holds names and labels alone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = ids_by_name(content.get("labels", content))
        words = title_words(str(content.get("name") or "")) or title_words(path.parent.name)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"names no labels ({type(error).__name__}: {error})",
            where=path,
            mend='It needs "labels": {"liver": 1, ...}.',
        ) from error
    return meaning_of(names, words)


@cache
def _like_totalsegmentator() -> dict[str, tuple[StructureClass, ...]]:
    classes = by_name("totalsegmentator").classes
    return {label: (find(name),) for name, labels in classes.items() for label in labels}
