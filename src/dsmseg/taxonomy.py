"""The 45 classes of the paper (§ 4.2.3): names, hosts, aliases, prompts, colors and codes, read from taxonomy.toml."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from dsmseg.errors import InputError

_DATA = "taxonomy.toml"
_FILLERS = frozenset({"a", "an", "and", "both", "in", "of", "the"})


@dataclass(frozen=True, slots=True)
class Code:
    """A term of a coding scheme, as DICOM writes it. "SCT" is SNOMED CT."""

    value: str
    meaning: str
    scheme: str = "SCT"


_LATERALITY = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}


@dataclass(frozen=True, slots=True)
class StructureClass:
    """One of the 45 classes.

    ``id`` is 1 to 45 and is the value in label maps. ``hosts`` are names of organs, the main one first; an organ has
    none. ``color`` is red, green, blue from 0 to 255. ``snomed`` names the structure without its side, see
    ``laterality``; for a tumor it says what it is (neoplasm, cyst), and the code of its host says where.
    """

    id: int
    name: str
    kind: Literal["organ", "tumor"]
    hosts: tuple[str, ...]
    side: Literal["left", "right"] | None
    aliases: tuple[str, ...]
    prompt: str
    color: tuple[int, int, int]
    snomed: Code | None

    @property
    def laterality(self) -> Code | None:
        """The code of the side, which modifies ``snomed`` as in DICOM SEG; None for what is not paired."""
        return None if self.side is None else _LATERALITY[self.side]


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The classes in order, and an index from the keys of each name, alias and group word to what it means.

    ``prompt`` is the sentence around a name that text encoders are given.
    """

    classes: tuple[StructureClass, ...]
    prompt: str
    words: Mapping[str, str]
    index: Mapping[str, tuple[StructureClass, ...]]

    def lookup(self, text: str) -> tuple[StructureClass, ...]:
        """The class that ``text`` names, or the several that it means as a group; empty when it is unknown."""
        return next((self.index[key] for key in _keys(text, self.words) if key in self.index), ())


def parse(text: str) -> Taxonomy:
    """Read a taxonomy from the text of a TOML file laid out as taxonomy.toml.

    Raises:
        InputError: the ids are not 1, 2, 3, ... in order, a host is not an organ, a group names an unknown class, or
            two classes or groups claim the same name.
    """
    data = tomllib.loads(text)
    classes = tuple(
        _structure_class(entry, kind, data["prompt"]) for kind in ("organ", "tumor") for entry in data[kind]
    )
    if [one.id for one in classes] != list(range(1, len(classes) + 1)):
        raise _broken("the ids are not 1, 2, 3, ... in order")
    organs = {one.name for one in classes if one.kind == "organ"}
    for one in classes:
        if not organs.issuperset(one.hosts) or bool(one.hosts) != (one.kind == "tumor"):
            raise _broken(f"the hosts of {one.name} are {list(one.hosts)}: a tumor has organs as hosts, an organ none")
    return Taxonomy(classes, data["prompt"], data["words"], _index(classes, data["words"], data["groups"]))


def find(text: str) -> StructureClass:
    """The class that ``text`` names, by its name or an alias.

    Case, spaces, punctuation, word order, plurals and common synonyms ("renal" for "kidney") make no difference.

    Raises:
        InputError: nothing is called so (the text suggests what is), or several classes are ("kidney").
    """
    found = _TAXONOMY.lookup(text)
    if len(found) == 1:
        return found[0]
    if not found:
        raise _unknown(text)
    names = ", ".join(one.name for one in found)
    raise InputError(f"{text!r} means {len(found)} classes: {names}", mend="Name one of them.")


def find_all(text: str) -> tuple[StructureClass, ...]:
    """The classes named by a list such as ``"liver, kidneys, tumors"``: each once, in the order of their ids.

    Beside names and aliases as in `find`, group words are understood: "kidneys", "lungs", "adrenal glands", "organs",
    "tumors", "all", and the others under [groups] in taxonomy.toml.

    Raises:
        InputError: the list is empty, or a part of it is unknown.
    """
    parts = [part.strip() for part in re.split("[,;]", text) if part.strip()]
    if not parts:
        raise InputError("no class is named", mend='Name some, such as "liver, kidneys", or "all".')
    chosen: set[StructureClass] = set()
    for part in parts:
        found = _TAXONOMY.lookup(part)
        if not found:
            raise _unknown(part)
        chosen.update(found)
    return tuple(one for one in CLASSES if one in chosen)


def by_id(id: int) -> StructureClass:
    """The class with this ``id``, the value in label maps.

    Raises:
        InputError: ``id`` is not 1 to 45.
    """
    if not 1 <= id <= len(CLASSES):
        raise InputError(f"no class has the id {id}", mend=f"Ids are 1 to {len(CLASSES)}.")
    return CLASSES[id - 1]


def in_prompt(name: str) -> str:
    """The sentence that a text encoder is given for ``name``, as for the classes: ``StructureClass.prompt``."""
    return _TAXONOMY.prompt.replace("{name}", name)


def _structure_class(entry: Mapping[str, Any], kind: Literal["organ", "tumor"], prompt: str) -> StructureClass:
    red, green, blue = entry["color"]
    return StructureClass(
        id=entry["id"],
        name=entry["name"],
        kind=kind,
        hosts=tuple(entry.get("hosts", ())),
        side=entry.get("side"),
        aliases=tuple(entry.get("aliases", ())),
        prompt=prompt.format(name=entry["name"]),
        color=(red, green, blue),
        snomed=Code(**entry["snomed"]) if "snomed" in entry else None,
    )


def _index(
    classes: tuple[StructureClass, ...], words: Mapping[str, str], groups: Mapping[str, Iterable[str]]
) -> dict[str, tuple[StructureClass, ...]]:
    by_name = {one.name: one for one in classes}
    meanings: list[tuple[str, tuple[StructureClass, ...]]] = [
        (name, (one,)) for one in classes for name in (one.name, *one.aliases)
    ]
    for group, members in groups.items():
        if unknown := sorted(set(members) - by_name.keys()):
            raise _broken(f"the group {group!r} names unknown classes: {', '.join(unknown)}")
        meanings.append((group, tuple(by_name[name] for name in members)))
    organs, tumors = (tuple(one for one in classes if one.kind == kind) for kind in ("organ", "tumor"))
    meanings += [(name, organs) for name in ("organs", "all organs")]
    meanings += [(name, tumors) for name in ("tumors", "all tumors", "lesions", "all lesions")]
    meanings += [(name, classes) for name in ("all", "all classes", "everything")]
    index: dict[str, tuple[StructureClass, ...]] = {}
    for name, meaning in meanings:
        for key in _keys(name, words):
            if index.setdefault(key, meaning) != meaning:
                raise _broken(f"{name!r} is claimed twice: by {index[key][0].name} and by {meaning[0].name}")
    return index


def _keys(text: str, words: Mapping[str, str]) -> tuple[str, str]:
    """What a text is looked up by: its plain words in alphabetical order, and its letters run together."""
    letters = re.findall(r"[^\W_]+", text.casefold())
    plain = {part for word in letters for part in _plain(word, words).split()} - _FILLERS
    return " ".join(sorted(plain)), "".join(letters)


def _plain(word: str, words: Mapping[str, str]) -> str:
    """The word in the singular, and for a synonym the word that it stands for."""
    word = words.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return words.get(word, word)


def _unknown(text: str) -> InputError:
    from difflib import get_close_matches  # only an error needs it, and it would slow `--help` down

    words, _ = _keys(text, _TAXONOMY.words)
    close = (_TAXONOMY.index[key] for key in get_close_matches(words, _TAXONOMY.index, n=10, cutoff=0.7))
    names = list(dict.fromkeys(one.name for meaning in close if len(meaning) <= 3 for one in meaning))[:3]
    mend = f"Did you mean {' or '.join(names)}?" if names else 'Name a class, such as "liver", or "all".'
    return InputError(f"no class is called {text!r}", mend=mend)


def _broken(what: str) -> InputError:
    return InputError(what, where=_DATA, mend="Correct the entry, or install dsmseg anew.")


_TAXONOMY = parse(files("dsmseg").joinpath(_DATA).read_text(encoding="utf-8"))

CLASSES = _TAXONOMY.classes
"""All 45 classes, in the order of their ids."""
ORGANS = tuple(one for one in CLASSES if one.kind == "organ")
"""The 25 organs, ids 1 to 25."""
TUMORS = tuple(one for one in CLASSES if one.kind == "tumor")
"""The 20 tumors, ids 26 to 45."""
