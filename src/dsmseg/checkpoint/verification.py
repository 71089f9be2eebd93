"""Whether weights of either kind are sound, from the checksum to the last tensor."""

from pathlib import Path

from dsmseg.checkpoint.backbone import as_backbone
from dsmseg.checkpoint.cards import BackboneCard, Card
from dsmseg.checkpoint.segmenter import as_segmenter, network
from dsmseg.checkpoint.storage import read


def verify(name_or_path: str | Path) -> Card | BackboneCard:
    """Check a file from its checksum to the last tensor's shape, and return its card.

    Raises:
        WeightsError: anything that ``load`` and ``network``, or ``load_backbone``, would refuse.
    """
    stored = read(name_or_path)
    if isinstance(stored.card, BackboneCard):
        as_backbone(stored)
    else:
        network(as_segmenter(stored))
    return stored.card
