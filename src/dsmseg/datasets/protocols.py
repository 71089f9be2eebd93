"""Which prepared cases a training or a test may take: the paper's protocol, or one in which unseen means unseen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsmseg.datasets.description import Part, Stage, packaged
from dsmseg.datasets.fingerprint import find_copies
from dsmseg.datasets.splits import Protocol, Splits, parts, public_splits, read_splits
from dsmseg.datasets.store import Store, StoredCase


@dataclass(frozen=True, slots=True)
class Choice:
    """The cases of one part of a protocol. left_out: how many of each data set were left out, and why."""

    cases: tuple[StoredCase, ...]
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


def choose_cases(
    store: Store, protocol: Protocol, part: Part, *, stage: Stage | None = None, splits: Path | Splits | None = None
) -> Choice:
    """Choose the prepared cases of a part (training, testing, inference, validation) of a protocol.

    ``paper`` follows Table 1, ``supervised`` is the fine-tuning of Table 4. ``clean`` trains on no scan that a test set
    holds: neither one that is known by its id to be in both, nor one whose content is that of a test scan in the store.
    A data set that is known to hold test scans, but of which nobody has published which, is trained on only if all of
    those tests are in the store to compare with.

    Args:
        store: where the cases are.
        protocol: paper, clean or supervised.
        part: what they are for.
        stage: of training (Table 1); None for both.
        splits: which case is for what, or the file that says so (`read_splits`); None: those of the public data sets.
            Cases that they do not name have no part.

    Raises:
        InputError: the file is no table of splits.
    """
    table = read_splits(splits) if isinstance(splits, Path) else splits or public_splits()
    assigned = parts(protocol, table)
    stored = store.cases()
    chosen = [
        one
        for one in stored
        if assigned.get(one.key) == part
        and (stage is None or part != "training" or stage in table.stages[one.record.dataset])
    ]
    left_out: dict[str, Counter[str]] = {}
    if protocol == "clean" and part == "training":
        tests = [one for one in stored if assigned.get(one.key) in ("testing", "inference")]
        chosen = _without_tests(chosen, tests, left_out, assigned)
    return Choice(tuple(chosen), left_out)


def _without_tests(
    chosen: Sequence[StoredCase],
    tests: Sequence[StoredCase],
    left_out: dict[str, Counter[str]],
    assigned: Mapping[tuple[str, str], str],
) -> list[StoredCase]:
    hidden = _not_comparable(tests, assigned)
    tested = {one.name for one in tests}
    prints = {one.name: one.fingerprint for one in (*chosen, *tests)}
    copies: dict[str, str] = {}
    for first, second, _ in find_copies(prints):
        if (first in tested) != (second in tested):
            own, test = (second, first) if first in tested else (first, second)
            copies.setdefault(own, test)
    kept = []
    for one in chosen:
        dataset = one.record.dataset
        reason = hidden.get(dataset) or (
            f"is a copy of one in {copies[one.name].split('/')[0]}" if one.name in copies else ""
        )
        if reason:
            left_out.setdefault(dataset, Counter())[reason] += 1
        else:
            kept.append(one)
    return kept


def _not_comparable(tests: Sequence[StoredCase], assigned: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Give the data sets that may hold test scans which are not in the store, and so cannot be found in them."""
    wanted = Counter(dataset for (dataset, _), part in assigned.items() if part in ("testing", "inference"))
    present = Counter(one.record.dataset for one in tests)
    hidden = {}
    for description in packaged():
        for held in description.holds:
            missing = wanted[held.dataset] - present[held.dataset]
            if held.found == "content" and missing > 0:
                hidden[description.name] = (
                    f"may hold test scans of {held.dataset}, {missing} of which are not in the store"
                )
    return hidden
