"""`Segmenter`: from a scan to its segmentation, with the network loaded once."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from dsmseg import __version__, checkpoint
from dsmseg.checkpoint import Card
from dsmseg.errors import InputError
from dsmseg.inference.blending import Progress, Scores, Tiling, sliding_window
from dsmseg.inference.choosing import choose_classes
from dsmseg.inference.framing import Frame, frame_body
from dsmseg.inference.lesions import LesionScores, find_lesions
from dsmseg.inference.memory import telling_memory
from dsmseg.inference.postprocessing import confine_to_hosts, drop_fragments
from dsmseg.inference.restoring import Interpolation, restore_field, restore_labels
from dsmseg.inference.runtime import choose_runtime
from dsmseg.inference.segmentation import Segmentation
from dsmseg.inference.windows import DEFAULT_OVERLAP
from dsmseg.volume import Volume, check_intensities, read_scan
from dsmseg.volume.body import TISSUE_HU

_NO_BODY = f"no body found (nothing in the scan is denser than {TISSUE_HU:.0f} HU), so the result is empty"


class Segmenter:
    """Segments one scan after another with the same network.

    Attributes:
        card: of the weights.
        choice: the classes that the weights know, and those that are asked for.
    """

    def __init__(
        self,
        network: nn.Module,
        card: Card,
        *,
        device: str = "auto",
        overlap: float = DEFAULT_OVERLAP,
        classes: str | Sequence[str] | None = None,
    ) -> None:
        """Take a network that is filled with the weights of ``card``.

        Args:
            network: gives a DSMOutput for (1, HU window, x, y, z).
            card: says how scans are to be prepared, and which classes the network knows.
            device: auto, cpu or cuda.
            overlap: least share that neighboring windows have in common, 0 to 0.9.
            classes: names, aliases or groups ("kidneys") to restrict the result to; None keeps all that are known.

        Raises:
            InputError: an argument is not among these, or a class is not known to the weights.
        """
        if not 0 <= overlap <= 0.9:
            raise InputError(f"the overlap is {overlap}", mend="Give a share from 0 to 0.9.")
        self.card = card
        self.choice = choose_classes(card, classes)
        self._overlap = overlap
        self._runtime = choose_runtime(device)
        placed = network.to(self._runtime.device).eval()
        self._network = convert_conv3d_weight_memory_format(placed, torch.channels_last_3d)

    @classmethod
    def load(
        cls,
        weights: str | Path = "starter",
        *,
        device: str = "auto",
        overlap: float = DEFAULT_OVERLAP,
        classes: str | Sequence[str] | None = None,
    ) -> Self:
        """Load ``weights`` by their packaged name or the path of a .safetensors file; the rest as in ``Segmenter``.

        Raises:
            WeightsError: the weights are missing, damaged or do not fit.
            InputError: as for ``Segmenter``.
        """
        loaded = checkpoint.load(weights)
        return cls(checkpoint.network(loaded), loaded.card, device=device, overlap=overlap, classes=classes)

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
        clock = _Stopwatch()
        with clock.timing("read"):
            volume = _as_volume(scan, affine)
        with clock.timing("prepare"):
            frame = frame_body(volume, self.card.spacing_mm, self.card.window)
        with clock.timing("network"):
            scores = sliding_window(
                self._network, frame.hu, frame.body, self._tiling(), self._runtime, progress=progress
            )
        with clock.timing("postprocess"):
            self._postprocess(scores, frame)
        with clock.timing("restore"):
            segmentation = self._restore(volume, frame, scores)
        name = Path(os.path.abspath(scan)).name if isinstance(scan, str | Path) else "array"
        segmentation.run.update(self._record(name, volume, frame, scores), seconds=clock.seconds)
        return segmentation

    def _tiling(self) -> Tiling:
        return Tiling(
            size=self.card.window,
            overlap=self._overlap,
            hu_windows=self.card.hu_windows,
            organs=[organ.id - 1 for organ in self.choice.known_organs],
            tumors=[tumor.id - 26 for tumor in self.choice.searched_tumors],
        )

    def _postprocess(self, scores: Scores, frame: Frame) -> None:
        organs = self.choice.known_organs
        drop_fragments(scores.organs, organs)
        masks = {organ.name: (one > 0.5).numpy() for organ, one in zip(organs, scores.organs, strict=True)}
        confine_to_hosts(scores.tumors, self.choice.searched_tumors, masks, frame.grid.spacing)

    def _restore(self, volume: Volume, frame: Frame, scores: Scores) -> Segmentation:
        """Bring all known classes to the scan's grid, so that what is asked for does not change where it lies."""
        interpolation = Interpolation.between(frame.grid, volume.grid)
        known, searched = self.choice.known_organs, self.choice.searched_tumors
        organs = restore_labels(scores.organs, [organ.id for organ in known], interpolation)
        tumors = restore_labels(scores.tumors, [tumor.id for tumor in searched], interpolation)
        fields = {tumor.name: one.numpy() for tumor, one in zip(searched, scores.tumors, strict=True)}
        lesions = find_lesions(tumors, organs, self.choice.tumors, volume, LesionScores(fields, frame.grid))
        return Segmentation(
            volume=volume,
            organs=self.choice.restrict(organs),
            tumors=self.choice.restrict(tumors),
            anomaly=restore_field(scores.anomaly, interpolation),
            lesions=lesions,
            classes=self.choice.classes,
            run={},
        )

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
        }

    def _record(self, name: str, volume: Volume, frame: Frame, scores: Scores) -> dict[str, Any]:
        note = {} if frame.body.any() else {"note": _NO_BODY}
        return note | {
            **self.settings(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": self.card.stage,
            "input": {
                "name": name,
                "shape": list(volume.own.shape),
                "spacing_mm": [float(value) for value in volume.own.spacing],
                "affine": np.asarray(volume.own.affine, dtype=float).tolist(),
            },
            "windows": scores.windows,
            "body_ml": round(int(frame.body.sum()) * frame.grid.voxel_volume_ml, 1),
            "tumors": self.choice.tumor_search,
        }


@dataclass(slots=True)
class _Stopwatch:
    """Seconds of each step, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[step] = round(perf_counter() - start, 3)


def _as_volume(scan: str | Path | Volume | NDArray[Any], affine: ArrayLike | None) -> Volume:
    if isinstance(scan, np.ndarray):
        if affine is None:
            raise InputError("an array has no place in space", mend="Give its affine, 4 x 4, voxel -> mm RAS.")
        if scan.size == 0 or scan.dtype.kind not in "iuf":
            raise InputError(f"the array {scan.shape} of {scan.dtype} is no scan", mend="Give numbers in HU.")
        scan = Volume.from_own(scan, np.asarray(affine, dtype=np.float64), dtype=np.float32)
    elif affine is not None:
        raise InputError("an affine was given for a scan that has its own", mend="Leave the affine out.")
    if isinstance(scan, Volume):
        check_intensities(scan.array)
        return scan
    return read_scan(scan)
