"""`Segmenter`: from a scan to its segmentation, with the network loaded once."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from dsmseg import __version__, checkpoint
from dsmseg.checkpoint import Card
from dsmseg.errors import InputError
from dsmseg.inference.blending import Progress, SlidingWindow
from dsmseg.inference.choosing import DECIDES, Choice, choose_classes
from dsmseg.inference.framing import Frame, frame_body
from dsmseg.inference.layers import Layers
from dsmseg.inference.lesions import find_lesions
from dsmseg.inference.memory import Need, refuse_too_large, telling_memory
from dsmseg.inference.prompting import WINDOWS_HEARD, Match, Prompts
from dsmseg.inference.runtime import choose_runtime
from dsmseg.inference.segmentation import Segmentation
from dsmseg.inference.windows import DEFAULT_OVERLAP
from dsmseg.volume import VOLUME_SUFFIXES, Volume, check_intensities, read_grid, read_scan
from dsmseg.volume.body import TISSUE_HU

_Part = TypeVar("_Part")

_NO_BODY = f"no body found (nothing in the scan is denser than {TISSUE_HU:.0f} HU), so the result is empty"


class Segmenter:
    """Segments one scan after another with the same network.

    Attributes:
        card: of the weights.
        choice: the classes that the weights know, and those that are asked for.
        need: the memory that scans take.
    """

    def __init__(
        self,
        network: nn.Module,
        card: Card,
        *,
        device: str = "auto",
        overlap: float = DEFAULT_OVERLAP,
        classes: str | Sequence[str] | None = None,
        prompts: Sequence[str] = (),
    ) -> None:
        """Take a network that is filled with the weights of ``card``.

        Args:
            network: gives a DSMOutput for (1, HU window, x, y, z).
            card: says how scans are to be prepared, and which classes the network knows.
            device: auto, cpu or cuda.
            overlap: least share that neighboring windows have in common, 0 to 0.9.
            classes: names, aliases or groups ("kidneys") to restrict the result to; None keeps all that are known but
                for tumors that the card says are not searched, or none but what ``prompts`` mean.
            prompts: free texts; the class of the query that fits each best is looked for too.

        Raises:
            InputError: an argument is not among these, or a class is not known to the weights.
        """
        if not 0 <= overlap <= 0.9:
            raise InputError(f"the overlap is {overlap}", mend="Give a share from 0 to 0.9.")
        self.card = card
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        chosen = choose_classes(card, classes)
        self.choice = chosen.only(()) if prompts and classes is None else chosen
        self._prompts = Prompts.encoded(prompts, card.text_encoder) if prompts else None
        self._overlap = overlap
        self._runtime = choose_runtime(device)
        placed = network.to(self._runtime.device).eval()
        self.need = Need.of_weights(card, network.parameters())
        self._network = convert_conv3d_weight_memory_format(placed, torch.channels_last_3d)

    @classmethod
    def load(
        cls,
        weights: str | Path = "starter",
        *,
        device: str = "auto",
        overlap: float = DEFAULT_OVERLAP,
        classes: str | Sequence[str] | None = None,
        prompts: Sequence[str] = (),
    ) -> Self:
        """Load ``weights`` by their packaged name or the path of a .safetensors file; the rest as in ``Segmenter``.

        Raises:
            WeightsError: the weights are missing, damaged or do not fit.
            InputError: as for ``Segmenter``.
        """
        loaded = checkpoint.load(weights)
        network = checkpoint.network(loaded)
        return cls(network, loaded.card, device=device, overlap=overlap, classes=classes, prompts=prompts)

    @telling_memory()
    def __call__(
        self,
        scan: str | Path | Volume | NDArray[Any],
        affine: ArrayLike | None = None,
        *,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment one scan.

        Args:
            scan: a file, a DICOM folder, a Volume, or an array in HU (any axis order, as its ``affine`` says).
            affine: of an array, 4 x 4, voxel -> mm RAS.
            progress: is called with (windows done, windows in all).

        Raises:
            InputError: the scan cannot be read or used, or memory runs out.
        """
        start = perf_counter()
        if isinstance(scan, str | Path):
            self.check_memory(Path(scan))
        volume = _as_volume(scan, affine)
        seconds = {"read": round(perf_counter() - start, 3)}
        source = Path(os.path.abspath(scan)) if isinstance(scan, str | Path) else None
        segmentation = self.segment(volume, source=source, progress=progress)
        segmentation.run["seconds"] = seconds | segmentation.run["seconds"]
        return segmentation

    @telling_memory()
    def segment(self, volume: Volume, *, source: Path | None = None, progress: Progress | None = None) -> Segmentation:
        """Segment a scan that was read already, from ``source`` where that is a file or a folder.

        Raises:
            InputError: memory runs out.
        """
        refuse_too_large(volume.own, self.need, source)
        clock = _Stopwatch()
        with clock.timing("prepare"):
            frame = frame_body(volume, self.card.spacing_mm, self.card.window)
        with clock.timing("network"):
            matches = self._match(frame)
        choice = self.choice.only([*self.choice.classes, *(match.query for match in matches)])
        window = self._window(frame, choice, progress)
        layers = Layers(choice, frame, volume.grid)
        for slab in clock.timed("network", window):
            with clock.timing("restore"):
                layers.add(slab)
        with clock.timing("postprocess"):
            layers.finish()
            segmentation = _segmentation(volume, source, layers, choice, matches)
        segmentation.run.update(self._record(segmentation, choice, frame, len(window.windows)), seconds=clock.seconds)
        return segmentation

    def check_memory(self, scan: Path) -> None:
        """Refuse a scan that needs more memory than there is, as far as its header tells; folders and .zip do not.

        Raises:
            InputError: it does, or its header cannot be read.
        """
        if scan.is_file() and scan.name.lower().endswith(VOLUME_SUFFIXES):
            refuse_too_large(read_grid(scan), self.need, scan)

    def _match(self, frame: Frame) -> list[Match]:
        """Find the query that each text means in this scan."""
        if self._prompts is None:
            return []
        alignment = getattr(self._network, "text_alignment", None)
        with self._prompts.listening(alignment) as heard:
            if alignment is not None:
                self._window(frame, self.choice, None).look(WINDOWS_HEARD)
        return self._prompts.matches(heard, self.choice.known_organs + self.choice.known_tumors)

    def _window(self, frame: Frame, choice: Choice, progress: Progress | None) -> SlidingWindow:
        tiling = choice.tiling(self.card, self._overlap)
        return SlidingWindow(self._network, frame.hu, frame.body, tiling, self._runtime, progress=progress)

    def settings(self) -> dict[str, Any]:
        """Give all that decides, with the scan, what comes out, as run.json records it."""
        return {
            "dsmseg": __version__,
            "torch": torch.__version__,
            "weights": {"name": self.card.name, "version": self.card.version, "sha256": self.card.sha256},
            "device": self._runtime.device.type,
            "dtype": str(self._runtime.dtype).removeprefix("torch."),
            "overlap": self._overlap,
            "classes": [one.name for one in self.choice.classes],
            "operating_points": {
                name: point.model_dump(include=set(DECIDES)) for name, point in self.card.operating_points.items()
            },
            "prompts": [] if self._prompts is None else list(self._prompts.texts),
        }

    def _record(self, segmentation: Segmentation, choice: Choice, frame: Frame, windows: int) -> dict[str, Any]:
        own, source = segmentation.volume.own, segmentation.source
        note = {} if frame.body.any() else {"note": _NO_BODY}
        return note | {
            **self.settings(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": self.card.stage,
            "input": {
                "name": "array" if source is None else source.name,
                "shape": list(own.shape),
                "spacing_mm": [float(value) for value in own.spacing],
                "affine": np.asarray(own.affine, dtype=float).tolist(),
            },
            "windows": windows,
            "body_ml": round(int(frame.body.sum()) * frame.grid.voxel_volume_ml, 1),
            "tumors": choice.tumor_search,
            "not_searched": choice.left_out,
            "never_labelled": [one.name for one in choice.unseen_tumors if one in choice.classes],
        }


def _segmentation(
    volume: Volume, source: Path | None, layers: Layers, choice: Choice, matches: list[Match]
) -> Segmentation:
    organs, tumors, levels = layers.organs.T, layers.tumors.T, layers.tumor_levels
    lesions = [] if levels is None else find_lesions(tumors, organs, choice.tumors, volume, levels.T)
    return Segmentation(
        volume=volume,
        source=source,
        organs=choice.restrict(organs),
        tumors=tumors,
        anomaly_levels=layers.anomaly_levels.T,
        unexplained_levels=layers.unexplained_levels.T,
        lesions=lesions,
        classes=choice.classes,
        run={},
        matches=matches,
    )


@dataclass(slots=True)
class _Stopwatch:
    """Seconds of each step, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + perf_counter() - start, 3)

    def timed(self, step: str, parts: Iterable[_Part]) -> Iterator[_Part]:
        """Give all ``parts``, and time how long each takes to come."""
        iterator = iter(parts)
        while True:
            with self.timing(step):
                part = next(iterator, None)
            if part is None:
                return
            yield part


def _numbers(affine: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(affine, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError("the affine does not hold numbers", mend="Give it 4 x 4, voxel -> mm RAS.") from error


def _as_volume(scan: str | Path | Volume | NDArray[Any], affine: ArrayLike | None) -> Volume:
    if isinstance(scan, np.ndarray):
        if affine is None:
            raise InputError("an array has no place in space", mend="Give its affine, 4 x 4, voxel -> mm RAS.")
        if scan.size == 0 or scan.dtype.kind not in "iuf":
            raise InputError(f"the array {scan.shape} of {scan.dtype} is no scan", mend="Give numbers in HU.")
        scan = Volume.from_own(scan, _numbers(affine), dtype=np.float32)
    elif affine is not None:
        raise InputError("an affine was given for a scan that has its own", mend="Leave the affine out.")
    if isinstance(scan, Volume):
        check_intensities(scan.array)
        return scan
    return read_scan(scan)
