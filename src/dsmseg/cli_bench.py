"""The verb `dsmseg bench`. It imports its room when it runs, so that help answers at once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsmseg import console
from dsmseg.cli_options import INTERRUPTED, AsJson
from dsmseg.errors import InputError
from dsmseg.resources import cores

if TYPE_CHECKING:
    from dsmseg.evaluation.bench import Plan


def bench(
    table: Annotated[
        Literal["table2", "table3", "table4", "table5"], typer.Argument(metavar="TABLE", help="table2 to table5.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Gets runs, scores and tables.")],
    scale: Annotated[
        Literal["mini", "full"], typer.Option(help="Virtual bodies that are made here, or the real data sets.")
    ] = "mini",
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Trainings of each row, each with its own seed.")] = 1,
    first_seed: Annotated[int, typer.Option(metavar="K", min=0, help="Of the first: K, K + 1, ... are run.")] = 0,
    rows: Annotated[
        str | None, typer.Option(metavar="LIST", help="Only these, such as 'full,without_dqr'.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The data sets as they unpack (full).", show_default=False)
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="What datasets prepare made of them (full).", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Instead of the packaged one.", show_default=False)
    ] = None,
    unseen: Annotated[
        Literal["in-hosts", "any-query", "same-kind", "any-tumor"],
        typer.Option(help="Which query of DSM answers for a kind that it was not trained on (docs/bench.md)."),
    ] = "in-hosts",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a table of the paper: train what is missing, score each case, write the table beside the paper's.

    What DIR holds already is kept: stopped at any point, the same command goes on.
    """
    from dsmseg import training
    from dsmseg.evaluation import bench as room

    with console.progress("Looking for cases") as progress:
        if scale == "mini":
            if data is not None or store is not None:
                raise InputError("--data and --store are for --scale full", mend="Leave them out.")
            found = room.mini_data(output, workers=cores(), progress=progress.step)
        elif data is None or store is None:
            raise InputError(
                "--scale full needs --data and --store", mend="Unpack the data sets, then: dsmseg datasets prepare."
            )
        else:
            found = room.Data("full", data, store, None)
        only = tuple(one.strip() for one in rows.split(",") if one.strip()) if rows else ()
        plan = room.Plan(room.load_table(table), found, output, seeds, first_seed, only, settings or [], recipe, unseen)
        try:
            summary = room.run_table(plan, progress.step)
        except training.StoppedError as stopped:
            progress.line(console.as_error(f"{stopped.where}: {stopped.what}. The same command goes on from there."))
            raise typer.Exit(INTERRUPTED) from stopped
    if as_json:
        console.document(summary)
    else:
        _tell(plan)


def _tell(plan: "Plan") -> None:
    page = plan.directory / f"{plan.table.name}.md"
    sys.stdout.write(page.read_text(encoding="utf-8"))
    sys.stdout.write(f"\nWritten to {page} and {page.with_suffix('.json')}\n")
