"""The verbs of `dsmseg weights`. Each imports its room when it runs, so that help answers at once."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmseg import console
from dsmseg.cli_options import STYLE, AsJson, Device
from dsmseg.errors import InputError

if TYPE_CHECKING:
    from dsmseg.checkpoint import BackboneCard, Card, OperatingPoint

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


@app.command("calibrate")
def calibrate_weights(
    weights: Which,
    scans: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Held-out scans with label maps: nnU-Net's layout with its dataset.json, or a public set.",
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Or a store: the scans that its splits have for validation.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of the store: a table of parts, such as a benchmark's.")
    ] = None,
    planted: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Copies of each scan, with a drawn tumor of each kind that it is known to lack."
        ),
    ] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Choose each tumor's operating point on held-out scans.

    Threshold, least volume and least mean score by FROC, at half a false lesion a scan. They go on the card, and
    predict uses them. The scans should be with and without tumors, and had no part in training. Where they have few
    lesions, --planted puts drawn ones into copies of them; the card tells how many.
    """
    from dsmseg.datasets.labelled import labelled_cases, stored_cases
    from dsmseg.evaluation.validation import calibrate
    from dsmseg.training.tumors import absent_in

    with console.progress("Loading the weights") as progress:
        if scans is not None and store is None:
            cases = labelled_cases(scans)
        elif store is not None and scans is None:
            cases = stored_cases(store, splits=splits, absent=partial(absent_in, None))
        else:
            raise InputError("held-out scans are in one place", mend="Give either --scans or --store.")
        step = partial(progress.step, "Scans looked at")
        card = calibrate(weights, cases, planted=planted, device=device, progress=step)
    points = {name: point.model_dump(mode="json") for name, point in card.operating_points.items()}
    if as_json:
        console.document({"name": card.name, "operating_points": points})
    else:
        console.table(_POINT, [_point_row(name, point) for name, point in card.operating_points.items()])


_POINT = ("tumor", "threshold", "least ml", "least score", "lesions found", "false a scan", "scans", "searched")


def _point_row(name: str, point: "OperatingPoint") -> tuple[str, ...]:
    found = "-" if point.sensitivity is None else f"{point.sensitivity:.0%} of {point.lesions}"
    found += f" ({point.planted} planted)" if point.planted else ""
    false = "-" if point.false_lesions is None else f"{point.false_lesions:.2f}"
    searched = "yes" if point.searched else f"no: {point.reason}"
    numbers = f"{point.threshold:.3f}", f"{point.least_volume_ml:.3f}", f"{point.least_score:.3f}"
    return name, *numbers, found, false, str(point.cases), searched


def _row(card: "Card | BackboneCard") -> tuple[str, ...]:
    from dsmseg import checkpoint

    if isinstance(card, checkpoint.BackboneCard):
        return card.name, "-", "backbone", "-", "-", "-"
    return card.name, card.version, card.preset, str(card.stage), str(len(card.organs)), str(len(card.tumors))
