"""The verbs of `dsmseg datasets`. Each imports its room when it runs, so that help answers at once."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmseg import console
from dsmseg.cli_options import STYLE, YOURS_TO_MEND, AsJson, Device
from dsmseg.errors import InputError
from dsmseg.resources import cores

if TYPE_CHECKING:
    from dsmseg.datasets import Description, Finding, Preparation, Settings, Verified
    from dsmseg.datasets.pseudo.labelling import Labelled

app = typer.Typer(help="Public data sets, or your own: what is known of them, verify, prepare for training.", **STYLE)


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Holds one data set or several, as they unpack.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="This data set alone; may be repeated.")]
Described = Annotated[
    Path | None, typer.Option("--description", metavar="FILE", help="A data set of your own, described in TOML.")
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes. Default: the cores.", show_default=False),
]


@app.command("list")
def list_datasets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Tell all of one.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the public data sets.

    Their cases, the paper's counts and the splits taken; with NAME, where to get it, its classes and its traps.
    """
    from dsmseg import datasets

    if name is not None:
        content = _told(datasets.by_name(name))
        console.document(content) if as_json else console.facts(content)
        return
    rows = [_told(one) for one in datasets.packaged()]
    if as_json:
        console.document({"datasets": rows})
        return
    header = ("name", "cases", "classes", "table 1", "paper protocol", "clean protocol", "licence")
    console.table(header, [_cells(row) for row in rows])


@app.command("verify")
def verify_datasets(
    folder: Folder,
    only: Only = None,
    description: Described = None,
    workers: Workers = None,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Do not read voxels.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check data sets before they are used.

    Which cases are there; labels on their images; label ids; HU; mirrored scans; scans that are there twice.
    """
    from dsmseg import datasets

    with console.progress("Looking for data sets") as progress:
        found = datasets.choose_datasets(folder, only or (), description)
        verified = datasets.verify(
            folder, found, workers=workers or cores(), headers_only=headers_only, progress=progress.step
        )
    count = sum(len(one.findings) for one in verified)
    if as_json:
        console.document({"datasets": [_verified(one) for one in verified]})
    else:
        for finding in (finding for one in verified for finding in one.findings):
            sys.stdout.write(finding.line + "\n")
        rows = [(one.name, str(one.cases), str(one.published or "-"), str(len(one.findings))) for one in verified]
        console.table(("name", "cases", "published", "findings"), rows)
        _tell_copies([pair for one in verified for pair in one.copies])
    if count:
        console.error_line(f"{folder}: {count} findings. Each line on stdout tells how to mend it.")
        raise typer.Exit(YOURS_TO_MEND)


@app.command("prepare")
def prepare_datasets(
    folder: Folder,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="STORE", help="New, or one to go on with.")],
    only: Only = None,
    description: Described = None,
    workers: Workers = None,
    spacing: Annotated[float, typer.Option(metavar="MM", help="Of the store's voxels.")] = 1.5,
    hu_window: Annotated[str, typer.Option(metavar="LOW,HIGH", help="What HU are clipped to.")] = "-175,250",
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Take cases in spite of this check (orientation, ...); may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prepare data sets for training: RAS, one spacing, cut to the body, compressed for random patches.

    A run that was stopped goes on where it was; what has not changed is not done again.
    """
    from dsmseg import datasets

    settings = _settings(spacing, hu_window)
    accepted = _checks(accept or [])
    with console.progress("Looking for data sets") as progress:
        found = datasets.choose_datasets(folder, only or (), description)
        prepared = datasets.prepare(
            found, output, settings, workers=workers or cores(), accept=accepted, progress=progress.step
        )
    left_out = [finding for one in prepared.datasets for finding in one.left_out]
    if as_json:
        console.document(_prepared(prepared))
    else:
        _tell_preparation(prepared, left_out)
    if left_out:
        console.error_line(f"{folder}: {len(left_out)} cases are left out. Each line on stdout tells how to mend it.")
        raise typer.Exit(YOURS_TO_MEND)


@app.command("pseudo-label")
def pseudo_label(
    scans: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="Scans, or folders of them, as for predict.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="New, or one to go on with.")],
    weights: Annotated[str, typer.Option(metavar="NAME", help="Packaged weights, or a .safetensors file.")] = "starter",
    table: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="What is known of the scans: case, labels, names, healthy, drop."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Organs to take from the weights, such as liver,kidneys. Default: all."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Label scans that have no labels with what weights find in them, as a data set to train on.

    Each scan is looked at several times, at other scales. Where looks differ, voxels are marked as unknown, which teach
    nothing; an organ whose density, size or place cannot be an organ's is left out. Look at the pictures, correct label
    maps or name what is wrong in the table, and run again. Then: dsmseg datasets prepare DIR -o STORE.
    """
    from dsmseg.datasets.pseudo.labelling import Failure, label
    from dsmseg.taxonomy import find_all

    asked = None if classes is None else [one.name for part in classes.split(",") for one in find_all(part)]
    with console.progress("Labelling") as progress:
        step = partial(progress.step, "Labelling")
        done = label(scans, output, weights=weights, table=table, classes=asked, device=device, progress=step)
    failed = [one for one in done if isinstance(one, Failure)]
    made = [one for one in done if not isinstance(one, Failure)]
    if as_json:
        console.document({"cases": [asdict(one) for one in done]})
    else:
        for one in made:
            for organ in one.organs:
                if organ.against:
                    sys.stdout.write(f"{one.case}: {organ.name} is left out: {organ.against}\n")
        header = ("case", "organs", "left out", "unknown")
        console.table(header, [_labelled_cells(one) for one in made])
    if failed:
        for each in failed:
            console.error_line(each.why)
        raise typer.Exit(YOURS_TO_MEND)


def _labelled_cells(one: "Labelled") -> tuple[str, ...]:
    left_out = sum(bool(organ.against) for organ in one.organs)
    return one.case, str(len(one.organs) - left_out), str(left_out), f"{100 * one.unknown:.1f} %"


def _told(description: "Description") -> dict[str, Any]:
    from dsmseg import datasets

    role = description.table_1
    protocols = {name: datasets.counts(name).get(description.name, {}) for name in ("paper", "clean")}
    return {
        "name": description.name,
        "title": description.title,
        "citation": description.citation,
        "doi": description.doi,
        "licence": description.licence,
        "where": description.where,
        "cases": description.published,
        "classes": list(description.annotated),
        "query": role.query,
        "stages": list(role.stages),
        "table_1": {part: count for part in ("training", "testing", "inference") if (count := getattr(role, part))},
        "paper": protocols["paper"],
        "clean": protocols["clean"],
        "images": list(description.layout.images),
        "labels": list(description.layout.labels),
        "notes": list(description.notes),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (" ".join(f"{part} {count}" for part, count in row[key].items()) for key in ("table_1", "paper", "clean"))
    return row["name"], str(row["cases"]), str(len(row["classes"])), *(one or "-" for one in counts), row["licence"]


def _settings(spacing: float, hu_window: str) -> "Settings":
    from pydantic import ValidationError

    from dsmseg import datasets

    try:
        low, high = (float(one) for one in hu_window.split(","))
        if low >= high:
            raise ValueError("the lower end comes first")
        return datasets.Settings(spacing_mm=(spacing,) * 3, hu_window=(low, high))
    except ValidationError as error:
        fault = error.errors()[0]
        where = "--spacing" if fault["loc"][0] == "spacing_mm" else "--hu-window"
        raise InputError(fault["msg"], where=where, mend="Give 0.1 to 10 mm, and HU from -4096.") from error
    except ValueError as error:
        mend = "Give two numbers, such as --hu-window=-175,250."
        raise InputError(f"'{hu_window}' is no window ({error})", where="--hu-window", mend=mend) from error


def _checks(names: Sequence[str]) -> list[Any]:
    accepted = ("orientation", "intensities", "empty", "labels")
    for name in names:
        if name not in accepted:
            raise InputError(
                f"'{name}' cannot be accepted", where="--accept", mend=f"Give one of {', '.join(accepted)}."
            )
    return list(names)


def _tell_preparation(prepared: "Preparation", left_out: Sequence["Finding"]) -> None:
    for finding in left_out:
        sys.stdout.write(finding.line + "\n")
    rows = []
    for one in prepared.datasets:
        rows.append((one.name, str(len(one.written)), str(len(one.kept)), str(len(one.left_out))))
        if one.gone:
            sys.stdout.write(
                f"{one.name}: the store holds {', '.join(one.gone[:6])}, which the folder no longer does. "
                "Remove their folders from the store if they are not wanted.\n"
            )
    console.table(("name", "written", "up to date", "left out"), rows)
    _tell_copies(prepared.copies)


def _tell_copies(copies: Sequence[tuple[str, str, float]]) -> None:
    pairs: dict[tuple[str, str], int] = {}
    for first, second, _ in dict.fromkeys(copies):
        one, other = sorted((first.split("/")[0], second.split("/")[0]))
        pairs[one, other] = pairs.get((one, other), 0) + 1
    for (one, other), count in pairs.items():
        beside = "twice" if one == other else f"in {other} too"
        sys.stdout.write(f"{one}: {count} of its scans {'is' if count == 1 else 'are'} {beside}, by content\n")


def _verified(one: "Verified") -> dict[str, Any]:
    return {
        "name": one.name,
        "cases": one.cases,
        "published": one.published,
        "findings": [_finding(finding) for finding in one.findings],
        "copies": [list(pair) for pair in one.copies],
    }


def _finding(one: "Finding") -> dict[str, Any]:
    return {"case": one.case, "check": one.check, "what": one.what, "mend": one.mend}


def _prepared(prepared: "Preparation") -> dict[str, Any]:
    return {
        "datasets": [
            {
                "name": one.name,
                "written": list(one.written),
                "up_to_date": list(one.kept),
                "left_out": [_finding(finding) for finding in one.left_out],
                "gone": list(one.gone),
            }
            for one in prepared.datasets
        ],
        "copies": [list(pair) for pair in prepared.copies],
    }
