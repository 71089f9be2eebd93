"""Who is scored: a row of a table with one training of it, or with none where it needs none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dsmseg import checkpoint
from dsmseg.checkpoint import OperatingPoint
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.data import Reference
from dsmseg.evaluation.bench.score_file import ScoreFile
from dsmseg.evaluation.bench.scoring import Method, by_host, by_network, choose_points
from dsmseg.evaluation.bench.tables import Free, Row
from dsmseg.inference import UnseenRule
from dsmseg.inference.choosing import DECIDES
from dsmseg.taxonomy import StructureClass

Points = Mapping[str, OperatingPoint]


@dataclass
class Contender:
    """A row with the weights of one seed.

    weights: their checksum, or the name of what needs none. card: operating points that its card names, by tumor. make:
    gives the method; it is called where something is to be scored, since networks are large.
    """

    row: Row
    weights: str
    make: Callable[[], Method]
    card: Points = field(default_factory=dict)

    @classmethod
    def trained(cls, row: Row, weights: Path, unseen: UnseenRule, unseen_kinds: Sequence[str]) -> "Contender":
        """Take weights that were trained.

        Raises:
            InputError: their card names a kind that is to be unseen.
        """
        loaded = checkpoint.load(weights)
        card = loaded.card
        _refuse_leaks(weights, (*card.organs, *card.tumors), unseen_kinds)
        return cls(
            row,
            str(card.sha256),
            lambda: by_network(checkpoint.network(loaded), card, unseen),
            card.operating_points,
        )

    @classmethod
    def untrained(cls, row: Row, free: Free) -> "Contender":
        """Take what needs no training."""
        return cls(row, free, lambda: by_host(free))

    @cached_property
    def method(self) -> Method:
        """Give what answers, made once."""
        return self.make()

    def points(
        self, classes: Sequence[StructureClass], validation: Sequence[Reference], scores: ScoreFile, key: dict[str, Any]
    ) -> Points:
        """Give the operating point of each tumor: the card's, or one chosen on the validation scans.

        key: what else the choice depends on, to find it again in the file of scores.
        """
        missing = [one for one in classes if one.kind == "tumor" and one.name not in self.card]
        identity = key | {
            "points_of": [one.name for one in missing],
            "files": [one.state() for one in validation],
            "weights": self.weights,
        }
        if missing and not scores.has(identity):
            chosen = choose_points(self.method, validation, missing)
            scores.add(identity, [{"class": name, **point.model_dump()} for name, point in chosen.items()])
        rows = (scores.get(identity) if missing else None) or ()
        found = {
            row["class"]: OperatingPoint(**{name: value for name, value in row.items() if name != "class"})
            for row in rows
        }
        return dict(self.card) | found


def identity_of(points: Points, classes: Sequence[str]) -> dict[str, Any]:
    """Give what of operating points decides a case's scores, as JSON holds it."""
    return {name: points[name].model_dump(include=set(DECIDES)) for name in classes if name in points}


def _refuse_leaks(weights: Path, trained_on: Sequence[str], unseen: Sequence[str]) -> None:
    """Unseen means unseen: weights whose card names a kind that is to be so are not scored.

    Raises:
        InputError: they do.
    """
    if leaked := sorted(set(unseen) & set(trained_on)):
        raise InputError(
            f"was trained on {leaked[0]}, which is to stay unseen", where=weights, mend="Remove it, and train anew."
        )
