"""Which data sets a folder holds: the public ones, one of your own, or one that describes itself."""

from collections.abc import Sequence
from pathlib import Path

from dsmseg.datasets.description import Description, by_name, packaged, read_description
from dsmseg.datasets.foreign import describe_foreign
from dsmseg.datasets.layout import Found, find_datasets
from dsmseg.errors import InputError


def choose_datasets(folder: Path, only: Sequence[str] = (), description: Path | None = None) -> list[Found]:
    """Find the data sets of a folder.

    Args:
        folder: holds one data set or several, as they unpack.
        only: names of the data sets to look for; all when empty.
        description: a TOML file of your own, which alone is looked for.

    Raises:
        InputError: there is none, or not one that was asked for.
    """
    known = packaged()
    if only and description is not None:
        raise InputError("--only and --description exclude each other", mend="Give one of them.")
    names = list(dict.fromkeys(only))
    wanted: Sequence[Description] = [by_name(name, known) for name in names] or known
    if description is not None:
        wanted = [read_description(description)]
        found = find_datasets(folder, wanted)
    else:  # all are looked for, since what is another's is none of theirs
        chosen = {one.name for one in wanted}
        found = [one for one in find_datasets(folder, known) if one.description.name in chosen]
    if not found and description is None and not only:
        found = [one for place, own in describe_foreign(folder) for one in find_datasets(place, [own])]
    missing = sorted({one.name for one in wanted} - {one.description.name for one in found})
    if missing and (only or description is not None):
        first = next(one for one in wanted if one.name == missing[0])
        raise InputError(f"holds no {first.name}", where=folder, mend=_expected(first))
    if not found:
        raise InputError(
            "holds no data set that is known",
            where=folder,
            mend="Give the folder that a public one was unpacked into (dsmseg datasets list), one with a dataset.json, "
            "or describe your own (--description; see docs/datasets.md).",
        )
    return found


def _expected(description: Description) -> str:
    layout = description.layout
    return f"Its images lie at .../{layout.images[0]} and its labels at .../{layout.labels[0]}."
