"""The verbs of `dsmseg weights`. Each imports its room when it runs, so that help answers at once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmseg import console
from dsmseg.cli_options import STYLE, AsJson

if TYPE_CHECKING:
    from dsmseg.checkpoint import BackboneCard, Card

app = typer.Typer(help="The weights that come with the package, or a file of your own.", **STYLE)

Which = Annotated[str, typer.Argument(metavar="NAME|PATH", help="Packaged weights or a .safetensors file.")]


@app.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List the weights that come with the package."""
    from dsmseg import checkpoint

    cards = [checkpoint.read(name).card for name in checkpoint.packaged()]
    if as_json:
        console.document([card.model_dump(mode="json") for card in cards])
    else:
        console.table(("name", "version", "preset", "stage", "organs", "tumors"), [_row(card) for card in cards])


@app.command("show")
def show_weights(weights: Which, as_json: AsJson = False) -> None:
    """Show a model card: classes, training data, license, figures; of a backbone, where it is from."""
    from dsmseg import checkpoint

    card = checkpoint.read(weights).card.model_dump(mode="json")
    console.document(card) if as_json else console.facts(card)


@app.command("verify")
def verify_weights(weights: Which, as_json: AsJson = False) -> None:
    """Check weights: card, checksum, and each tensor against the network."""
    from dsmseg import checkpoint

    card = checkpoint.verify(weights)
    told = card.model_dump(mode="json", include={"kind", "name", "version", "sha256"})
    if as_json:
        console.document({**told, "sound": True})
    else:
        named = " ".join(told[key] for key in ("name", "version") if key in told)
        sys.stdout.write(f"{named} is sound: sha256 {card.sha256}\n")


@app.command("import")
def import_weights(
    source: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Of MONAI's SwinUNETR 1.6: .pt, .pth or .safetensors.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A new .safetensors file; its card goes beside it.")
    ],
    licence: Annotated[str, typer.Option(metavar="TEXT", help="The license of CHECKPOINT, for the card.")] = "unknown",
    as_json: AsJson = False,
) -> None:
    """Import a backbone to start a training from.

    CHECKPOINT is a whole Swin UNETR, or the encoder that self-supervised training left. No code in it is run.
    """
    from dsmseg import checkpoint

    card = checkpoint.import_backbone(source, output, licence=licence)
    if as_json:
        console.document(card.model_dump(mode="json"))
        return
    size = f"feature size {card.feature_size}, input channels {card.input_channels}"
    sys.stdout.write(f"Backbone and its card: {output} ({card.holds}; {size})\n")
    if card.left_away:
        sys.stdout.write(f"Left away, since a backbone has no place for them: {', '.join(card.left_away)}\n")


def _row(card: "Card | BackboneCard") -> tuple[str, ...]:
    from dsmseg import checkpoint

    if isinstance(card, checkpoint.BackboneCard):
        return card.name, "-", "backbone", "-", "-", "-"
    return card.name, card.version, card.preset, str(card.stage), str(len(card.organs)), str(len(card.tumors))
