"""The only door for weights: safetensors, a card (JSON) beside them, and the sha256 that ties the two."""

from dsmseg.checkpoint.backbone import fill_backbone, load_backbone, read_backbone_card, save_backbone
from dsmseg.checkpoint.cards import BackboneCard, Card, OperatingPoint, TrainingData
from dsmseg.checkpoint.monai import import_backbone
from dsmseg.checkpoint.segmenter import Checkpoint, load, network, save
from dsmseg.checkpoint.storage import packaged, read, replace_card
from dsmseg.checkpoint.verification import verify

__all__ = [
    "BackboneCard",
    "Card",
    "Checkpoint",
    "OperatingPoint",
    "TrainingData",
    "fill_backbone",
    "import_backbone",
    "load",
    "load_backbone",
    "network",
    "packaged",
    "read",
    "read_backbone_card",
    "replace_card",
    "save",
    "save_backbone",
    "verify",
]
