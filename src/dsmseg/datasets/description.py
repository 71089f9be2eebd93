"""What a data set is: one TOML each, from who made it and how it unpacks to which label means which class."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsmseg.errors import InputError
from dsmseg.taxonomy import find
from dsmseg.volume import VOLUME_SUFFIXES

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Stage = Literal[1, 2]
Part = Literal["training", "testing", "inference", "validation"]
Rule = Literal["kidneys", "lungs", "adrenal glands", "heads of femur"]
Placing = Literal[
    "header", "axes", "voxels", "voxels, rows reversed", "voxels, slices reversed", "voxels, both reversed"
]
LabelKind = Literal["label map", "one file a structure", "PNG stack"]

RULE_OF: dict[str, Rule] = {
    "Right Kidney": "kidneys",
    "Right Lung": "lungs",
    "Right Adrenal Gland": "adrenal glands",
    "Right Head of Femur": "heads of femur",
}

_PUBLIC = files("dsmseg.datasets").joinpath("public")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(_Section):
    """Where the files of a case lie, as the data set unpacks.

    case: regular expression of a case's id. images, labels: patterns of paths, ``{case}`` being the id, counted from
        the end of the path, so that it makes no difference which folder the data set was unpacked into. A pattern of a
        file leaves its extension out; one that ends in ``/`` is a folder (a DICOM series, a stack of PNG). In labels of
        the kind "one file a structure", ``{structure}`` is the structure.
    placing: how the voxels of a label file lie on those of its image, in the order in which it is tried: as its own
        "header" says, if it says the same place as the image's; only its "axes" as the header says, and corner upon
        corner; or "voxels", one upon the other in the order of the files, whatever the header says. "rows reversed":
        the second axis of the file runs the other way; "slices reversed": the third. Where several are possible, the HU
        under the labels decide.
    index: a file in the data set's folder that lists its cases (``dataset.json`` of MSD and nnU-Net).
    """

    case: str
    images: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    kind: LabelKind = "label map"
    placing: Annotated[tuple[Placing, ...], Field(min_length=1)] = ("header",)
    index: str | None = None

    @model_validator(mode="after")
    def _patterns_can_be_matched(self) -> Self:
        try:
            groups = re.compile(self.case).groups
        except re.error as error:
            raise ValueError(f"case '{self.case}' is no regular expression ({error})") from error
        if groups:
            raise ValueError("case must not hold groups; write (?:...)")
        if self.case.startswith("(?") and not self.case.startswith("(?:"):
            raise ValueError("case must not hold flags; write [Aa] for both")
        if re.fullmatch(self.case, "") or re.fullmatch(self.case, "a/b"):
            raise ValueError(f"case '{self.case}' also matches nothing, or a path; write for example [^/]+")
        for pattern in (*self.images, *self.labels):
            if pattern.count("{case}") == 0:
                raise ValueError(f"the pattern '{pattern}' has no {{case}}")
            if pattern.startswith(("/", "./")) or ".." in PurePosixPath(pattern).parts:
                raise ValueError(f"the pattern '{pattern}' must be relative, without '.' and '..'")
            if pattern.lower().endswith(VOLUME_SUFFIXES):
                raise ValueError(f"the pattern '{pattern}' must leave the extension out")
        if both := sorted(set(self.images) & set(self.labels)):
            raise ValueError(f"'{both[0]}' is the pattern of images and of labels")
        apart = self.kind == "one file a structure"
        if any(("{structure}" in pattern) != apart for pattern in self.labels):
            raise ValueError("{structure} belongs in the labels of 'one file a structure', and nowhere else")
        return self


class Separation(_Section):
    """Labels that merge both sides of a paired organ, and the classes that they are to be parted into."""

    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    right: str
    left: str
    rule: Rule


class Held(_Section):
    """Scans of another data set that this one holds too.

    found: by the same id ("id"), or by their content only ("content"), since no list of them was published.
    ids: "id" only: this data set's ids; the other's is the same, or ``other_ids`` in the same order.
    """

    dataset: Name
    scans: Annotated[int, Field(ge=1)]
    found: Literal["id", "content"]
    ids: tuple[str, ...] = ()
    other_ids: tuple[str, ...] = ()
    source: str

    @model_validator(mode="after")
    def _ids_are_complete(self) -> Self:
        if self.other_ids and len(self.other_ids) != len(self.ids):
            raise ValueError("other_ids must be as many as ids")
        return self

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """This data set's id and the other's, of each scan that is known by id."""
        return tuple(zip(self.ids, self.other_ids or self.ids, strict=True))


class Role(_Section):
    """What the paper does with it (Table 1): scans by part, kind of queries, training stages."""

    training: Annotated[int, Field(ge=0)] = 0
    testing: Annotated[int, Field(ge=0)] = 0
    inference: Annotated[int, Field(ge=0)] = 0
    query: Literal["organ", "organ and tumor"] = "organ"
    stages: tuple[Stage, ...] = ()


class Description(_Section):
    """One data set.

    published: how many labelled cases are public. labels: the data set's own names, each with its id (none where each
    structure has a file of its own). classes: name of a class of the taxonomy -> the labels that make it up; a label
    may be in several, since a tumor's voxels belong to its organ too. Every class that is in neither ``classes`` nor
    ``separated`` is unknown, not background. optional: of "one file a structure", structures whose files need not be
    there. unknown: the label of voxels of which nothing is known ("ignore" of nnU-Net); they teach nothing. absent: of
    cases, kinds of tumor that are known to be nowhere in the scan, though its labels do not tell of them. unlabelled:
    of cases, classes that their labels do not tell of, though those of other cases do. withdrawn: cases that their
    makers took back, and why.
    """

    name: Name
    title: str
    citation: str
    licence: str
    where: str
    doi: str = ""
    notes: tuple[str, ...] = ()
    published: Annotated[int, Field(ge=1)] | None = None
    table_1: Role = Role()
    layout: Layout
    labels: dict[str, Annotated[int, Field(ge=1, le=65535)]] = Field(default_factory=dict)
    classes: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    separated: tuple[Separation, ...] = ()
    optional: tuple[str, ...] = ()
    unknown: str = ""
    absent: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unlabelled: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    withdrawn: dict[str, str] = Field(default_factory=dict)
    holds: tuple[Held, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        apart = self.layout.kind == "one file a structure"
        if not apart and not self.labels:
            raise ValueError("labels are missing: name each id of the label maps")
        if len(set(self.labels.values())) != len(self.labels):
            raise ValueError("two labels have the same id")
        used = [label for labels in self._label_lists() for label in labels]
        if not apart:
            for label in used:
                if label not in self.labels:
                    raise ValueError(f"'{label}' is none of the labels ({', '.join(self.labels)})")
        if not self.annotated:
            raise ValueError("no class is annotated: give classes or separated")
        for name in self.annotated:
            if find(name).name != name:
                raise ValueError(f"write '{find(name).name}' for '{name}'")
        if len(set(self.annotated)) != len(self.annotated):
            raise ValueError("a class is made up twice")
        for parting in self.separated:
            right, left = find(parting.right), find(parting.left)
            if (right.side, left.side) != ("right", "left") or right.snomed != left.snomed:
                raise ValueError(f"'{parting.right}' and '{parting.left}' are not the right and left of an organ")
            if RULE_OF.get(parting.right) != parting.rule:
                raise ValueError(f"the rule '{parting.rule}' is not for {parting.right}")
        if strangers := sorted(set(self.optional) - set(used)):
            raise ValueError(f"the optional '{strangers[0]}' is in no class")
        if self.unknown and (self.unknown not in self.labels or self.unknown in used):
            raise ValueError(f"the unknown '{self.unknown}' must be one of the labels, and in no class")
        for kind in {name for kinds in self.absent.values() for name in kinds}:
            if find(kind).kind != "tumor" or find(kind).name != kind:
                raise ValueError(f"the absent '{kind}' is no kind of tumor of the taxonomy")
        for name in {name for names in self.unlabelled.values() for name in names}:
            if name not in self.classes:
                raise ValueError(f"the unlabelled '{name}' is none of the classes")
        for case in self.withdrawn:
            if not re.fullmatch(self.layout.case, case):
                raise ValueError(f"the withdrawn '{case}' is no id that layout.case matches")
        return self

    def _label_lists(self) -> Iterable[tuple[str, ...]]:
        yield from self.classes.values()
        yield from (parting.labels for parting in self.separated)

    @cached_property
    def annotated(self) -> tuple[str, ...]:
        """Names of the classes that its label maps annotate."""
        sides = [side for parting in self.separated for side in (parting.right, parting.left)]
        return (*self.classes, *sides)

    @cached_property
    def annotated_ids(self) -> tuple[int, ...]:
        """Taxonomy ids of the classes that its label maps annotate, in order."""
        return tuple(sorted(find(name).id for name in self.annotated))

    @cached_property
    def structures(self) -> tuple[str, ...]:
        """The labels that any class needs, in the order in which they are named."""
        return tuple(dict.fromkeys(label for labels in self._label_lists() for label in labels))


def packaged() -> tuple[Description, ...]:
    """The public data sets that dsmseg knows, in the order of the paper's Table 1."""
    order = _PUBLIC.joinpath("order.txt").read_text(encoding="utf-8").split()
    return tuple(_parse(_PUBLIC.joinpath(f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml") for name in order)


def by_name(name: str, known: Iterable[Description] | None = None) -> Description:
    """The data set called ``name``.

    Raises:
        InputError: none is called so; the nearest name is given.
    """
    descriptions = {one.name: one for one in (packaged() if known is None else known)}
    if name in descriptions:
        return descriptions[name]
    close = get_close_matches(name.casefold().replace("-", "_"), descriptions, n=1, cutoff=0.3)
    mend = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(descriptions)}."
    raise InputError(f"no data set is called '{name}'", mend=mend)


def read_description(path: Path) -> Description:
    """Read a description of your own; it is laid out as those in ``dsmseg/datasets/public``.

    Raises:
        InputError: the file cannot be read, or a setting is unknown, missing or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read ({error})", where=path, mend="Give a TOML file, see docs/datasets.md."
        ) from error
    return _parse(text, path)


def describe(content: Mapping[str, Any], where: object) -> Description:
    """Check what describes a data set.

    Raises:
        InputError: a setting is unknown, missing or wrong.
    """
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        raise InputError(_first_fault(error), where=where, mend="See docs/datasets.md for each setting.") from error
    except InputError as error:  # a class that the taxonomy does not know
        raise InputError(error.what, where=where, mend=error.mend) from error


def _parse(text: str, where: object) -> Description:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is no TOML ({error})", where=where, mend="Correct that line.") from error
    return describe(content, where)


def _first_fault(error: ValidationError) -> str:
    errors = error.errors()
    fault = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        return f"'{place}': {message}" if place else message
    section: Any = Description
    for part in fault["loc"][:-1]:
        section = {"layout": Layout, "separated": Separation, "holds": Held, "table_1": Role}.get(str(part), section)
    close = get_close_matches(str(fault["loc"][-1]), list(section.model_fields), n=1, cutoff=0.0)
    return f"'{place}' is no setting; the nearest is '{close[0]}'"
