"""The verbs of `dsmseg synth`. Each imports its room when it runs, so that help answers at once."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from dsmseg import console
from dsmseg.cli_options import STYLE, AsJson
from dsmseg.resources import cores

app = typer.Typer(help="Synthetic bodies and tumors, with known truth, from a seed.", **STYLE)

Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where it is written.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same voxels.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Phase = Annotated[
    Literal["native", "arterial", "venous"] | None, typer.Option(help="Of contrast. Default: drawn, or estimated.")
]


@app.command("phantom")
def make_phantom(
    output: Output,
    seed: Seed = 0,
    coverage: Annotated[
        Literal["thorax", "abdomen", "pelvis", "thorax-abdomen", "abdomen-pelvis", "torso"],
        typer.Option(help="From where to where the scan goes."),
    ] = "abdomen",
    spacing: Annotated[str, typer.Option(metavar="X,Y,Z", help="mm between voxels.")] = "1.0,1.0,2.5",
    phase: Phase = None,
    tumor: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Grow this tumor; may be repeated.")] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="metal, motion or beam hardening; may be repeated."),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="A man who lacks nothing: all 25 organs.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a synthetic CT with its organs.

    DIR gets ct.nii.gz, organs.nii.gz, tumors.nii.gz (taxonomy ids) and record.json.
    """
    from dsmseg.synthesis.cases import CasePlan, make_case
    from dsmseg.synthesis.output import refuse_existing, write_case

    refuse_existing(output, overwrite)
    plan = CasePlan(
        seed=seed,
        coverage=coverage,
        spacing=_spacing(spacing),
        phase=phase,
        tumors=tuple(tumor or ()),
        artifacts=tuple(artifact or ()),
        whole=whole,
    )
    with console.progress("Making a body"):
        case = make_case(plan)
        write_case(case, output, overwrite=overwrite)
    if as_json:
        console.document({"directory": str(output), **case.record})
        return
    for grown in case.record["tumors"]:
        text = f"left out, {grown['skipped']}" if "skipped" in grown else f"{len(grown['lesions'])} in {grown['host']}"
        sys.stdout.write(f"{grown['kind']}: {text}\n")
    shape = " x ".join(str(count) for count in case.image.shape)
    sys.stdout.write(f"{shape} voxels, {case.record['phase']}, written to {output}\n")


@app.command("body")
def make_body(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="A label map, in any format that predict reads.")],
    output: Output,
    seed: Seed = 0,
    spacing: Annotated[float, typer.Option(metavar="MM", min=0.5, max=12, help="Between voxels.")] = 2.0,
    ids: Annotated[
        Literal["totalsegmentator", "dsmseg"], typer.Option(help="Whose ids the labels are; dsmseg: organs.nii.gz.")
    ] = "totalsegmentator",
    overwrite: Overwrite = False,
) -> None:
    """Make a CT of a body from its label map: deformed, with new intensities.

    DIR gets ct.nii.gz, organs.nii.gz (taxonomy ids) and record.json. Another seed gives another scan.
    """
    from dsmseg.synthesis.output import remake_body

    with console.progress("Making a body"):
        remake_body(labels, output, seed, spacing, organs=ids == "dsmseg", overwrite=overwrite)
    sys.stdout.write(f"Written to {output}\n")


@app.command("tumor")
def make_tumor(
    scan: Annotated[Path, typer.Argument(metavar="CT", help="Any scan that predict reads.")],
    organ_mask: Annotated[Path, typer.Option(metavar="MASK", help="The organ it grows in, on the scan's grid.")],
    kind: Annotated[str, typer.Option(metavar="KIND", help='One of the 20, such as "Pancreas Tumor".')],
    output: Output,
    seed: Seed = 0,
    label: Annotated[
        int | None, typer.Option(metavar="N", help="Of a label map, which is the organ.", show_default=False)
    ] = None,
    vessels: Annotated[
        Path | None, typer.Option(metavar="MASK", help="Vessels to grow along.", show_default=False)
    ] = None,
    phase: Phase = None,
    diameter: Annotated[
        float | None, typer.Option(metavar="MM", help="Long axis. Default: drawn.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Grow a synthetic tumor in a CT.

    DIR gets the new ct.nii.gz, tumor.nii.gz (the exact mask), organ.nii.gz (as the tumor pushed it) and record.json.
    """
    from dsmseg.synthesis.output import add_tumor

    with console.progress("Growing a tumor"):
        record = add_tumor(
            scan, organ_mask, kind, seed, output,
            label=label, vessels=vessels, phase=phase, diameter_mm=diameter, overwrite=overwrite,
        )  # fmt: skip
    if as_json:
        console.document({"directory": str(output), **record})
        return
    for lesion in record["lesions"]:
        sys.stdout.write(f"{record['kind']}: {lesion['diameter_mm']:.0f} mm, {lesion['volume_ml']:.2f} ml\n")
    sys.stdout.write(f"Written to {output}\n")


@app.command("benchmark")
def make_benchmark(
    output: Output,
    scale: Annotated[
        Literal["mini", "small", "full"], typer.Option(help="mini trains in minutes; full has Table 1's counts.")
    ] = "mini",
    seed: Seed = 0,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes. Default: the cores.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write virtual data sets that mirror the paper's Table 1.

    Each is a folder that `dsmseg datasets prepare` reads; splits.csv says what each case is for. A run that was stopped
    goes on where it was.
    """
    from dsmseg.synthesis.benchmark import write_benchmark

    with console.progress("Planning the bodies") as progress:
        written = write_benchmark(output, scale, seed=seed, workers=workers or cores(), progress=progress.step)
    if as_json:
        counts = {key: dict(value) if isinstance(value, dict) else value for key, value in written.counts.items()}
        console.document({"directory": str(output), "made": written.made, "kept": written.kept, "counts": counts})
        return
    sys.stdout.write(f"{written.made} cases made, {written.kept} kept, in {output}\n")
    sys.stdout.write(f"Go on with: dsmseg datasets prepare {output} -o STORE\n")


@app.command("gallery")
def make_gallery(
    output: Output,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Real scans to put beside (abdomen_3mm/, chest_lidc0001/).", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Draw the pictures of docs/synthesis.md: bodies, their truth, tumors, artifacts; real slices beside them."""
    from dsmseg.report.gallery import draw_gallery

    with console.progress("Drawing") as progress:
        pictures = draw_gallery(
            output, data=data, seed=seed, progress=lambda done, total: progress.step("Drawing", done, total)
        )
    for picture in pictures:
        sys.stdout.write(f"{picture}\n")


def _spacing(text: str) -> tuple[float, float, float]:
    from dsmseg.errors import InputError

    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"'{text}' is no spacing", where="--spacing", mend="Write for example 1.0,1.0,2.5.") from error
    return x, y, z
