"""Pictures of what a network says while it learns: a slice, what is known of it, and the answer."""

from pathlib import Path

import numpy as np
import torch

from dsmseg.baselines import BaselineOutput
from dsmseg.errors import InputError
from dsmseg.files import write_atomically
from dsmseg.model import DSMOutput
from dsmseg.taxonomy import CLASSES
from dsmseg.training.patches import Batch

_COLORS = np.array([(0, 0, 0), *(one.color for one in CLASSES)], np.float32) / 255


def require_matplotlib() -> None:
    """Refuse pictures where they cannot be drawn, before a run begins.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        what = "reporting.pictures_every needs matplotlib"
        raise InputError(what, mend='Install it: pip install "dsmseg[report]", or set it to 0.') from error


def draw_answer(path: Path, batch: Batch, output: DSMOutput | BaselineOutput) -> None:
    """Draw each patch of a batch: the slice that shows most, with the labels and with the network's answer.

    As radiologists see it: the patient's right on the left.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    parts = [part for part in (output.organ_logits, output.tumor_logits) if part is not None]
    masks = batch.labels.masks.cpu()
    answers = torch.cat(parts, dim=1).detach().float().cpu() > 0
    count = len(batch.image)
    figure = Figure(figsize=(9, 3 * count), dpi=80)
    for item in range(count):
        known = batch.labels.annotated[item].cpu()
        shown = int((masks[item] & known[:, None, None, None]).sum(dim=(0, 1, 2)).argmax())
        image = batch.image[item, 0, :, :, shown].cpu().numpy()
        answered = torch.zeros(len(known), *answers.shape[2:], dtype=torch.bool)
        answered[: answers.shape[1]] = answers[item]
        pictures = {
            batch.names[item]: _over(image, None),
            "labels": _over(image, masks[item, :, :, :, shown].numpy() & known[:, None, None].numpy()),
            "answer": _over(image, answered[:, :, :, shown].numpy() & known[:, None, None].numpy()),
        }
        for place, (title, picture) in enumerate(pictures.items()):
            axes = figure.add_subplot(count, 3, 3 * item + place + 1)
            axes.imshow(picture.transpose(1, 0, 2)[:, ::-1], origin="lower")
            axes.set_title(title, fontsize=8)
            axes.set_axis_off()
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _over(image: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
    """Give a gray slice with the classes' colors over it; later classes, the tumors, lie on top."""
    picture = np.repeat(image[:, :, None].astype(np.float32), 3, axis=2).clip(0, 1)
    if masks is None:
        return picture
    for index, mask in enumerate(masks):
        picture[mask] = 0.5 * picture[mask] + 0.5 * _COLORS[index + 1]
    return picture
