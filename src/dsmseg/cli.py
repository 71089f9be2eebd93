"""The command line: verbs only; `dsmseg weights`, `datasets`, `synth`, `evaluate` and `bench` have files of their own.

Each verb imports its room when it runs, so that help answers at once.
"""

import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsmseg import cli_bench, cli_datasets, cli_evaluate, cli_synth, cli_weights, console
from dsmseg.cli_options import DONE, INTERRUPTED, READER_GONE, STYLE, TERMINATED, YOURS_TO_MEND, AsJson, Device
from dsmseg.errors import DsmsegError, InputError

if TYPE_CHECKING:
    from dsmseg.inference import Case, CaseResult
    from dsmseg.training.recipe import Recipe

_NO_ROOM_TO_LOAD = ("failed to map segment", "libllvmlite")  # what the loader and numba say then
_NOTHING_HALF = "What was finished is complete; of the rest nothing was written."

app = typer.Typer(help="Organs and tumors in CT, by the DSM network. Research software, no medical device.", **STYLE)
app.add_typer(cli_weights.app, name="weights")
app.add_typer(cli_datasets.app, name="datasets")
app.add_typer(cli_synth.app, name="synth")
app.command("evaluate")(cli_evaluate.evaluate)
app.command("bench")(cli_bench.bench)

Weights = Annotated[str, typer.Option(metavar="NAME|PATH", help="Packaged weights or a .safetensors file.")]


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Scans (.nii, .nii.gz, .nrrd, .mha, .mhd), DICOM folders or .zip files, or folders of these.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Each case goes to DIR/<case>.")],
    weights: Weights = "starter",
    classes: Annotated[
        str | None, typer.Option(metavar="LIST", help='Only these, such as "liver, kidneys". Default: all known.')
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="Look for what a text means; may be repeated."),
    ] = None,
    file_format: Annotated[
        Literal["nifti", "seg.nrrd", "dicom-seg"],
        typer.Option("--format", help="Of the label maps; dicom-seg, with a report, takes DICOM scans only."),
    ] = "nifti",
    device: Device = "auto",
    overlap: Annotated[float, typer.Option(metavar="F", help="Share that neighboring windows have in common.")] = 0.25,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace case folders that exist.")] = False,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Fan out over Ray: local, auto or a cluster's HOST:PORT.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Of the cluster, one model each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Segment CT scans.

    Each case becomes a folder with organs, tumors and anomaly on the scan's own grid, statistics.json and run.json. A
    run that was stopped goes on when it is started again: what is done and unchanged is left as it is.
    """
    from dsmseg import inference

    if workers is not None and cluster is None:
        raise InputError("--workers counts those of a cluster", mend="Add --cluster local, or leave it out.")
    cases = inference.find_cases(inputs)
    names, rows = [case.name for case in cases], list[dict[str, Any]]()
    how: dict[str, Any] = {"file_format": file_format, "overwrite": overwrite}
    load = {
        "weights": weights,
        "device": device,
        "overlap": overlap,
        "classes": classes,
        "prompts": tuple(prompts or ()),
    }
    try:
        with console.progress("Loading the weights" if cluster is None else "Starting the workers") as progress:
            if cluster is None:
                results = _predict_here(cases, output, load, how, progress)
            else:
                from dsmseg.inference.cluster import predict_on_cluster

                results = predict_on_cluster(cases, output, address=cluster, workers=workers, load=load, **how)
            for result in results:
                rows.append(_row(result))
                del result  # It holds the scan, and the next one needs the memory.
                if cluster is not None:
                    progress.step("Cases done", len(rows), len(cases))
                if remark := rows[-1]["error"] or rows[-1]["note"]:
                    progress.line(console.as_error(remark))
    finally:  # What was finished is told, whatever then went wrong.
        if rows:
            _tell_cases(sorted(rows, key=lambda row: names.index(row["case"])), as_json=as_json)
    if any(row["error"] for row in rows):
        raise typer.Exit(YOURS_TO_MEND)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe (YAML), such as those in recipes/.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="The run. Default: runs/ and the recipe's name."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR from its last state.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open the data, do a few steps, tell time and memory; keep nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train weights.

    Everything that decides the result is in CONFIG. A run that was stopped goes on with --resume as if it had not been.
    """
    from dsmseg import training

    recipe = training.load_recipe(config, settings)
    if dry_run:
        content = training.rehearse(recipe)
        if training.is_first_process():
            console.document(content) if as_json else console.facts(content)
        return
    began = time.monotonic()
    with console.progress("Reading the training data") as progress:

        def show(entry: dict[str, float], steps: int) -> None:
            stage, step = int(entry["stage"]), int(entry["step"])
            if "validation score" in entry:
                progress.line(f"Stage {stage}, step {step} of {steps}, on held-out cases: {_how_it_does(entry)}")
                return
            progress.step(f"Stage {stage}, step {step} of {steps}: {_how_it_goes(entry, recipe, steps)}", step, steps)

        try:
            weights = training.train(recipe, output or Path("runs") / recipe.name, resume=resume, report=show)
        except training.StoppedError as stopped:
            progress.line(console.as_error(stopped))
            raise typer.Exit(INTERRUPTED) from stopped
    if not training.is_first_process():
        return
    if as_json:
        console.document({"weights": str(weights), "seconds": round(time.monotonic() - began, 1)})
    else:
        sys.stdout.write(f"Weights and their card: {weights}\n")


@app.command()
def info(
    scan: Annotated[
        Path | None, typer.Argument(metavar="[INPUT]", help="A scan to look at.", show_default=False)
    ] = None,
    weights: Weights = "starter",
    as_json: AsJson = False,
) -> None:
    """Tell what runs here, or about a scan.

    Without INPUT: versions, cores, memory, device, weights. With it: its grid, its HU, and what predict would need.
    """
    from dsmseg import machine

    content = machine.describe_machine() if scan is None else machine.describe_scan(scan, weights)
    console.document(content) if as_json else console.facts(content)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where the results go.")] = Path("demo"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Segment a real chest CT.

    Compares both lungs with a reference, and draws DIR/overview.png.
    """
    from dsmseg.report import run_demo

    with console.progress("Loading the weights") as progress:
        result = run_demo(
            output, device=device, progress=lambda done, total: progress.step("Segmenting a chest CT", done, total)
        )
    if as_json:
        agreements = {one.name: round(one.dice, 4) for one in result.agreements}
        files = {"case": str(result.case), "picture": str(result.picture)}
        console.document({**files, "dice": agreements, "seconds": round(result.seconds, 2)})
        return
    for one in result.agreements:
        sys.stdout.write(f"{one.name}: Dice {one.dice:.3f} with the reference\n")
    sys.stdout.write(f"{result.seconds:.1f} s from the scan to the picture\n")
    sys.stdout.write(f"Look at {result.picture}; everything else is in {result.case}\n")


def _how_it_does(entry: dict[str, float]) -> str:
    means = ("dice of organs", "dice of tumors", "lesion sensitivity", "score")
    known = ((name, entry.get(f"validation {name}")) for name in means)
    return ", ".join(f"{name} {value:.3f}" for name, value in known if value is not None)


def _how_it_goes(entry: dict[str, float], recipe: "Recipe", steps: int) -> str:
    others = ("stage", "step", "seconds", "seconds waited", "memory (GB)")
    terms = ", ".join(f"{name} {value:.3f}" for name, value in entry.items() if name not in others)
    speed, left = recipe.batch.size / entry["seconds"], (steps - entry["step"]) * entry["seconds"] / 60
    return f"{terms}; {speed:.2f} patches/s, {left:.0f} min left, {entry['memory (GB)']:.1f} GB"


def _predict_here(
    cases: Sequence["Case"], output: Path, load: dict[str, Any], how: dict[str, Any], progress: console.Progress
) -> Iterator["CaseResult"]:
    from dsmseg import inference

    def show(case: inference.Case, done: int, total: int) -> None:
        progress.step(f"{case.name} ({cases.index(case) + 1} of {len(cases)})", done, total)

    segmenter = inference.Segmenter.load(**load)
    return inference.predict(cases, output, segmenter=segmenter, progress=show, **how)


def _row(result: "CaseResult") -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": result.case.name,
        "input": str(result.case.path),
        "seconds": round(result.seconds, 2),
    }
    if result.directory is None:
        text = str(result.error)
        return {**row, "directory": None, "error": text if row["input"] in text else f"{row['input']}: {text}"}
    run_record = json.loads((result.directory / "run.json").read_text(encoding="utf-8"))
    note = f"{row['input']}: {run_record['note']}" if "note" in run_record else None
    statistics = json.loads((result.directory / "statistics.json").read_text(encoding="utf-8"))
    organs = [organ["name"] for organ in statistics["organs"] if organ["voxels"]]
    # Where tumors were not searched, their place holds the reason: that is not the same as none found.
    searched = not isinstance(statistics["tumors"], str)
    found = {"organs": organs, "lesions": statistics["lesions"] if searched else None}
    asked = {"prompts": statistics["prompts"]} if "prompts" in statistics else {}
    done = {"directory": str(result.directory), "unchanged": result.unchanged, "note": note, "error": None}
    return row | found | asked | {"not_searched": run_record["not_searched"]} | done


def _tell_cases(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        console.document({"cases": rows})
    else:
        console.table(("case", "organs", "lesions", "seconds", "written to"), [_cells(row) for row in rows])
        for row in rows:
            for asked in row.get("prompts", ()):
                sys.stdout.write(f"{row['case']}: {_answer(asked)}\n")
        for name, reason in {item for row in rows for item in row.get("not_searched", {}).items()}:
            sys.stdout.write(f"{name} was not searched: {reason} (--classes asks for it all the same)\n")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = f"{row['seconds']:.1f}"
    if row["error"]:
        return row["case"], "-", "-", seconds, "failed, see above"
    lesions = "not searched" if row["lesions"] is None else str(len(row["lesions"]))
    where = f"{row['directory']} (unchanged)" if row["unchanged"] else row["directory"]
    return row["case"], str(len(row["organs"])), lesions, seconds, where


def _answer(asked: dict[str, Any]) -> str:
    fit = f"similarity {asked['similarity']:.2f}, probability {asked['probability']:.2f}"
    return f'"{asked["text"]}" means the query of {asked["query"]} (by {asked["compared_with"]}: {fit})'


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code.

    What is neither the caller's to mend nor an interruption is raised: it is our own fault.
    """
    try:
        code = _obey(list(arguments) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has left. The rest goes nowhere, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


def _obey(arguments: list[str]) -> int:
    try:
        with typer.main.get_command(app).make_context("dsmseg", arguments) as context:
            context.command.invoke(context)
    except typer.Exit as exit_request:
        return exit_request.exit_code
    except typer.TyperException as error:
        console.error_line(f"{error.format_message()}{_where_to_read(error)}")
    except DsmsegError as error:
        console.error_line(error)
    except (ImportError, OSError) as error:
        if not any(sign in str(error) for sign in _NO_ROOM_TO_LOAD):
            raise
        console.error_line(
            "memory does not even suffice to load the libraries. Close other programs, or raise its limit."
        )
    except (MemoryError, RuntimeError) as error:
        from dsmseg.inference.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        console.error_line("memory ran out. Close other programs, or use a machine with more memory.")
    except (KeyboardInterrupt, typer.Abort):
        console.error_line(f"interrupted. {_NOTHING_HALF}")
        return INTERRUPTED
    except SystemExit:
        console.error_line(f"terminated. {_NOTHING_HALF}")
        return TERMINATED
    else:
        return DONE
    return YOURS_TO_MEND


def _where_to_read(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" See '{context.command_path} --help'." if context else ""


def main() -> None:
    """Run the command line of this process, and exit."""
    sys.excepthook = _tell_our_fault
    signal.signal(signal.SIGTERM, _terminate)
    _keep_error_stream()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    sys.exit(run(sys.argv[1:]))


def _keep_error_stream() -> None:
    """Give Python's error stream a descriptor of its own: while a scan is read, that of native code is silenced."""
    with suppress(OSError, ValueError):  # one that is no file
        if sys.stderr is not None:
            own = os.dup(sys.stderr.fileno())
            sys.stderr = os.fdopen(own, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


def _terminate(number: int, _: FrameType | None) -> None:
    """Leave through every clean-up on the way out; a second signal must not cut that short."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(TERMINATED)


def _tell_our_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    console.error_line("this is a fault of dsmseg. Please report it with the lines above and what `dsmseg info` says.")
