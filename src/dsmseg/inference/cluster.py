"""The folder run on many machines: cases fanned out over Ray, to workers that have loaded the network once.

Ray carries paths and short answers only. Scans and case folders go through a file system that all machines share.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from dsmseg import checkpoint, resources
from dsmseg.errors import InputError
from dsmseg.files import remove_leftovers
from dsmseg.inference.cases import Case
from dsmseg.inference.crew import Crew, hiring
from dsmseg.inference.prediction import CaseProgress, CaseResult, Target, prepare_output, remove_empty
from dsmseg.inference.segmentation import FileFormat

_KNOCK_SECONDS = 10
_STORE_BYTES = 80 << 20  # the least that Ray takes: no scan goes through it


def predict_on_cluster(
    cases: Sequence[Case],
    output: Path,
    *,
    address: str,
    workers: int | None = None,
    load: Mapping[str, Any],
    file_format: FileFormat = "nifti",
    overwrite: bool = False,
    progress: CaseProgress | None = None,
) -> Iterator[CaseResult]:
    """Do what `predict` does on a cluster, and give the results as they come: first what was done before.

    All is checked at once, by a first worker. A case whose worker dies is given to another one, three times in all. A
    Ray that this process runs already is used, and left running; any other is left, or ended, with the last result,
    when the iterator is closed, and by an error.

    Args:
        cases: what to segment.
        output: the folder for their folders.
        address: "local" for this machine, else a Ray cluster's, such as "10.0.0.1:6379", or "auto".
        workers: processes; None is as many as the cluster's GPUs, or one for every few of its cores.
        load: keyword arguments of `Segmenter.load`.
        file_format: of the label maps.
        overwrite: replace case folders that exist.
        progress: is called now and then for each case under way, with (case, windows done, windows in all).

    Raises:
        OutputError: as for `predict`.
        InputError: Ray is not installed, does not answer or cannot hold the workers; these do not see the output, do
            not agree in what decides the result, or cannot start; ``load`` does not fit. The last three also later.
        WeightsError: a worker does not find the weights, or they do not fit.
    """
    target = Target(output, file_format, overwrite)
    results = _results(cases, target, address, workers, _portable(load), progress)
    next(results)  # As far as here, it is checks.
    return cast(Iterator[CaseResult], results)


def _results(
    cases: Sequence[Case],
    target: Target,
    address: str,
    workers: int | None,
    load: dict[str, Any],
    progress: CaseProgress | None,
) -> Iterator[CaseResult | None]:
    """Give None once all is checked, then the results."""
    made = prepare_output(target.output)
    remote = replace(target, output=Path(os.path.abspath(target.output)))
    given = {replace(case, path=Path(os.path.abspath(case.path))): case for case in cases}
    crew = None

    def show(case: Case, done: int, total: int) -> None:
        if progress is not None:
            progress(given[case], done, total)

    try:
        with _connected(address) as ray:
            crew = Crew(ray, hiring(ray, workers, load, remote))
            with crew.ending():
                done = crew.check(list(given))
                yield None
                for case in given:
                    if case in done:
                        yield CaseResult(given[case], target.folder(case), None, 0.0, unchanged=True)
                for result in crew.segment([case for case in given if case not in done], show if progress else None):
                    folder = target.folder(result.case) if result.directory else None
                    yield replace(result, case=given[result.case], directory=folder)
    finally:
        for case in crew.lost if crew else ():
            remove_leftovers(remote.folder(case))
        remove_empty(made)


def _portable(load: Mapping[str, Any]) -> dict[str, Any]:
    """Make the path of weights mean the same in every process."""
    weights = load.get("weights")
    if weights is None or f"{weights}" in checkpoint.packaged() or not os.path.exists(weights):
        return dict(load)
    return {**load, "weights": os.path.abspath(weights)}


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield Ray, connected: started here for "local".

    Raises:
        InputError: Ray is not installed, or does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("a cluster needs Ray", mend='Install it: pip install "dsmseg[cluster]".') from error
    if ray.is_initialized():
        yield ray
        return
    with _silent(ray):
        try:
            _start(ray, address)
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Keep Ray from printing that a worker has died, which it does on stdout; it has no setting for that."""
    module = getattr(ray._private, "worker", None)
    printing = getattr(module, "print_to_stdstream", None)
    if module is None or printing is None:
        yield
        return
    module.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        module.print_to_stdstream = printing


def _start(ray: Any, address: str) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # It would report to its makers.
    here = {"num_cpus": resources.cores(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    in_main = threading.current_thread() is threading.main_thread()
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        if address not in ("local", "auto"):
            _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(here if address == "local" else {}))
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise InputError(
            f"Ray does not start or answer there ({reason})",
            where=f"cluster {address}",
            mend="Name a running cluster's address with its port, or local for this machine.",
        ) from error
    finally:
        if in_main and on_termination is not None:  # Ray has put its own in place.
            signal.signal(signal.SIGTERM, on_termination)


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself would try for minutes.

    Raises:
        OSError: nobody answers there.
        ValueError: ``address`` has no port.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
