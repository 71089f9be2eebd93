"""Folders that describe themselves: nnU-Net v2 and MSD by their dataset.json, TotalSegmentator by its layout."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmseg.datasets.description import RULE_OF, Description, by_name, describe
from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, StructureClass, find_all

_INDEX = "dataset.json"
_IS_CT = re.compile(r"(?i)(?<![a-z])(?:ce)?cta?(?![a-z])")
_IS_NOT = re.compile(r"(?i)(?<![a-z])(?:mri?|pet)(?![a-z])")
_IGNORED = "ignore"  # nnU-Net's name for voxels of which nothing is known
_NOT_LABELS = frozenset({"background", _IGNORED})


def describe_foreign(folder: Path) -> list[tuple[Path, Description]]:
    """Describe the data sets at ``folder``, or one folder below it, that carry their own description.

    Returns:
        The folder and the description of each.

    Raises:
        InputError: a dataset.json is damaged, not of a CT, or names no structure of the taxonomy; the names of two
            folders are alike but for their signs.
    """
    folder = folder.resolve()  # a name to call it by, however it was given
    places = [folder, *sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))]
    described = [(place, describe_index(place / _INDEX)) for place in places if (place / _INDEX).is_file()]
    names = [one.name for _, one in described]
    if len(set(names)) < len(names):
        raise InputError(
            f"holds folders with like names ({', '.join(place.name for place, _ in described)})",
            where=folder,
            mend="Rename one, or give them one by one.",
        )
    if described:
        return described
    for place in places:
        if next(place.glob("*/segmentations/*.nii*"), None) is not None:
            return [(place, _like_totalsegmentator(place))]
    return []


def describe_index(path: Path) -> Description:
    """Describe a data set by its dataset.json, of nnU-Net or of MSD.

    Names of labels are looked up in the taxonomy as `dsmseg.taxonomy.find` does; a label that it does not know is left
    out. A tumor without an organ in its name ("tumor", "cancer") is that of the organ beside it, or of the data set's
    name. The organ's class takes its tumors in; a label of both sides ("kidneys") is parted. Of nnU-Net's "ignore"
    nothing is known. What ``"dsmseg": {"absent": {case: kinds}, "unlabelled": {case: classes}}`` says of cases holds.

    Raises:
        InputError: it is damaged, not of one CT, or names no structure of the taxonomy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = content["labels"]
        channels = _channels(content.get("channel_names") or content["modality"])
        by_name_, ignored = ids_by_name(labels), _ignored_id(labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"is no dataset.json of nnU-Net or MSD ({type(error).__name__}: {error})",
            where=path,
            mend="It needs labels, and channel_names or modality.",
        ) from error
    if len(channels) != 1 or not _IS_CT.search(channels[0]) or _IS_NOT.search(channels[0]):
        raise InputError(
            f"is of {', '.join(channels)}, not of a CT",
            where=path,
            mend="Give a CT data set.",
        )
    title = str(content.get("name") or path.parent.name)
    nnunet = "channel_names" in content
    return describe(
        {
            "name": _slug(path.parent.name),
            "title": title,
            "citation": str(content.get("reference", "")),
            "licence": str(content.get("licence", content.get("license", "unknown"))),
            "where": str(path.parent),
            "layout": {
                "case": r"[^/]+?",
                "images": ["imagesTr/{case}_0000" if nnunet else "imagesTr/{case}"],
                "labels": ["labelsTr/{case}"],
                "index": None if nnunet else _INDEX,
            },
            **_with_ignored(_classes(by_name_, title_words(title) or title_words(path.parent.name)), ignored),
            **_by_case(content),
        },
        path,
    )


def ids_by_name(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Give the ids of each name: nnU-Net writes name -> id or ids (regions), MSD id -> name."""
    found: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        if isinstance(value, str):
            name, values = value, [key]
        else:
            name, values = key, value if isinstance(value, list) else [value]
        ids = tuple(int(one) for one in values)
        if name.casefold() not in _NOT_LABELS and any(ids):
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), *(one for one in ids if one))))
    return found


def _ignored_id(labels: Mapping[str, Any]) -> int | None:
    """Give the id of voxels of which nothing is known, as nnU-Net and MSD write it."""
    for key, value in labels.items():
        if isinstance(value, str):
            if value.casefold() == _IGNORED:
                return int(key)
        elif key.casefold() == _IGNORED:
            (id,) = value if isinstance(value, list) else [value]
            return int(id)
    return None


def _with_ignored(described: dict[str, Any], ignored: int | None) -> dict[str, Any]:
    if ignored is None:
        return described
    return described | {"labels": described["labels"] | {_IGNORED: ignored}, "unknown": _IGNORED}


def _by_case(content: Mapping[str, Any]) -> dict[str, Any]:
    """Give what dsmseg's own dataset.json (`dsmseg datasets pseudo-label`) tells of single cases."""
    own = content.get("dsmseg")
    return {name: own[name] for name in ("absent", "unlabelled") if name in own} if isinstance(own, Mapping) else {}


def _channels(content: Any) -> list[str]:
    """Give the names of the channels: they come by number, as a list, or alone."""
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else [content]
    if not all(isinstance(one, str) for one in values):
        raise TypeError("channels have no names")
    return list(values)


def meanings(names: Iterable[str], title: str = "") -> dict[str, tuple[StructureClass, ...]]:
    """Look up what the labels of a data set of this title mean: a class, both sides of an organ, or nothing known.

    A tumor without an organ in its name ("tumor", "cancer") is that of the organ beside it, or of the title.
    """
    meant = {name: _look_up(name) for name in names}
    organs = [one for found in meant.values() for one in found if one.kind == "organ" and len(found) <= 2]
    return {name: _of_organ(name, organs, title) if len(found) > 2 else found for name, found in meant.items()}


def _classes(by_name_: Mapping[str, tuple[int, ...]], title: str) -> dict[str, Any]:
    singles = {ids[0]: name for name, ids in by_name_.items() if len(ids) == 1}
    all_ids = sorted({id for ids in by_name_.values() for id in ids})
    names = {
        id: singles.get(id, f"label {id}" if f"label {id}" not in by_name_ else f"the label {id}") for id in all_ids
    }
    meant = meanings(by_name_, title)
    ids_of: dict[str, set[int]] = {}
    for name, found in meant.items():
        if len(found) == 1:
            ids_of.setdefault(found[0].name, set()).update(by_name_[name])
    for one in CLASSES:
        if one.kind == "tumor" and one.name in ids_of:
            for host in homes(one):
                if host in ids_of:
                    ids_of[host] |= ids_of[one.name]
    separated = []
    for name, found in meant.items():
        if (
            len(found) == 2
            and {one.side for one in found} == {"left", "right"}
            and not {one.name for one in found} <= ids_of.keys()  # each side has a label of its own too
        ):
            right, left = sorted(found, key=lambda one: one.side == "left")
            tumors = [one.name for one in CLASSES if one.name in ids_of and right.name in homes(one)]
            ids = set(by_name_[name]).union(*(ids_of[tumor] for tumor in tumors))
            rule = RULE_OF[right.name]
            separated.append(
                {"labels": [names[id] for id in sorted(ids)], "right": right.name, "left": left.name, "rule": rule}
            )
    return {
        "labels": {name: id for id, name in names.items()},
        "classes": {name: [names[id] for id in sorted(ids)] for name, ids in ids_of.items()},
        "separated": separated,
    }


def homes(one: StructureClass) -> tuple[str, ...]:
    """Give the organs that a tumor is a part of: its main host, on both sides. It lies beside the others."""
    return tuple(host for host in one.hosts if _bare(host) == _bare(one.hosts[0]))


def _bare(organ: str) -> str:
    return re.sub("^(Right|Left) ", "", organ)


def _look_up(text: str) -> tuple[StructureClass, ...]:
    try:
        return find_all(text.replace("_", " ").replace(",", " "))
    except InputError:
        return ()


def _of_organ(text: str, organs: Sequence[StructureClass], title: str) -> tuple[StructureClass, ...]:
    """Give the tumor that a bare "tumor" or "cyst" means beside ``organs``, or in a data set of this title."""
    names = [_bare(one.name) for one in organs] or [title]
    found = {one for name in names for one in _look_up(f"{name} {text}") if one.kind == "tumor"}
    return tuple(found) if len(found) == 1 else ()


def _like_totalsegmentator(folder: Path) -> Description:
    model = by_name("totalsegmentator").model_dump()
    model |= {
        "name": _slug(folder.name),
        "title": folder.name,
        "where": str(folder),
        "published": None,
        "notes": (),
        "citation": "",
        "doi": "",
        "licence": "unknown",
        "table_1": {},
    }
    model["layout"] |= {"case": "[^/]+"}
    structures = {path.name.split(".")[0] for path in folder.glob("*/segmentations/*.nii*")}
    model["classes"] = {name: labels for name, labels in model["classes"].items() if structures.intersection(labels)}
    used = {label for labels in model["classes"].values() for label in labels}
    model["optional"] = [label for label in model["optional"] if label in used]
    return describe(model, folder)


def title_words(text: str) -> str:
    """Give the words of a title such as ``Task06_Lung``, ``Dataset010_Colon`` or ``HepaticVessel``."""
    text = re.sub(r"(?i)^(task|dataset)_?\d+", "", text)
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_") or "dataset"
