"""The gallery of synthetic scans: bodies beside real slices, their truth, tumors before and after, artifacts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.files import replacing
from dsmseg.inference import Progress
from dsmseg.synthesis.anatomy import organ_mask
from dsmseg.synthesis.cases import Case, CasePlan, make_case
from dsmseg.synthesis.scanner import ARTIFACTS
from dsmseg.synthesis.tumors import insert_tumor
from dsmseg.taxonomy import TUMORS, by_id, find
from dsmseg.volume import read_scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Slice = tuple[NDArray[Any], Sequence[float], tuple[float, float], str]

_SOFT, _LUNG = (-160.0, 240.0), (-1100.0, 300.0)
_REAL = (("abdomen_3mm/ct.nii.gz", (0.45, 0.68, 0.8)), ("chest_lidc0001/ct.nii.gz", (0.08, 0.35, 0.62)))


def draw_gallery(
    output: Path, *, data: Path | None = None, seed: int = 0, progress: Progress | None = None
) -> list[Path]:
    """Draw the pictures of docs/synthesis.md into a folder; gives their paths.

    Args:
        output: folder. data: holds real scans to put beside (``abdomen_3mm``, ``chest_lidc0001``); None: none.
        seed: of the first body. progress: is called with pictures done and pictures in all.

    Raises:
        InputError: matplotlib or a real scan is missing.
        OutputError: a picture cannot be written.
    """
    drawings = {"bodies": _bodies, "truth": _truth, "tumors": _tumors, "artifacts": _artifacts}
    written = []
    output.mkdir(parents=True, exist_ok=True)
    for done, (name, draw) in enumerate(drawings.items()):
        if progress is not None:
            progress(done, len(drawings))
        path = output / f"{name}.png"
        _save(draw(seed, data), path)
        written.append(path)
    return written


def _bodies(seed: int, data: Path | None) -> "Figure":
    """Draw slices of synthetic bodies, of several habitus and phases, and below them of real scans."""
    cases = [make_case(CasePlan(seed=seed + n, coverage="torso", spacing=(1.2, 1.2, 3.0))) for n in range(4)]
    rows: list[list[_Slice]] = []
    for case in cases:
        who = case.record["patient"]
        title = f"synthetic, {who['sex']}, {case.record['phase']}"
        row: list[_Slice] = []
        for level in (-112, 30, 150, 225, 330):
            k = round((level * who["height"] - case.affine[2, 3]) / 3.0)
            row.append((case.image[:, :, k], (1.2, 1.2), _LUNG if level > 300 else _SOFT, title))
        rows.append(row)
    for name, shares in _REAL if data is not None else ():
        volume = read_scan(Path(data or ".") / name)
        row = []
        for share in shares:
            k = int(share * volume.array.shape[2])
            window = _LUNG if "chest" in name and share > 0.3 else _SOFT
            row.append((volume.array[:, :, k], volume.spacing[:2], window, f"real, {name.split('/')[0]}"))
        rows.append(row)
    figure, axes = _grid(len(rows), 5)
    for place, row in zip(axes, rows, strict=True):
        for axis, (image, spacing, window, title) in zip(place, row, strict=False):
            _show(axis, image, spacing, window, title)
    return figure


def _truth(seed: int, _: Path | None) -> "Figure":
    """Draw a body with all its organs outlined by color, in three directions."""
    case = make_case(CasePlan(seed=seed, coverage="torso", spacing=(1.5, 1.5, 1.5), whole=True))
    figure, axes = _grid(1, 4)
    colors = np.zeros((256, 4))
    for value in range(1, 26):
        colors[value] = (*np.array(by_id(value).color) / 255, 0.55)
    organs = case.organs()
    middle = np.array(np.nonzero(organs == find("Pancreas").id)).mean(axis=1).astype(int)
    ahead = int(np.nonzero(organs == find("Left Kidney").id)[1].mean())
    cuts = ((slice(None), slice(None), middle[2]), (slice(None), middle[1]), (slice(None), ahead), (middle[0],))
    for axis, cut in zip(axes[0], cuts, strict=True):
        _show(axis, case.image[cut], (1.5, 1.5), (-160, 240), "", flip=cut[0] == slice(None))
        overlay = colors[organs[cut].T]
        axis.imshow(overlay[:, ::-1] if cut[0] == slice(None) else overlay, origin="lower", aspect=1)
    return figure


def _tumors(seed: int, _: Path | None) -> "Figure":
    """Draw each of the 20 kinds of tumor in a body, outlined."""
    figure, axes = _grid(4, 10)
    plan = CasePlan(seed=seed, coverage="torso", spacing=(1.2, 1.2, 2.0), phase="venous", whole=True)
    clean = make_case(plan)
    for column, kind in enumerate(TUMORS):
        pair = axes[2 * (column // 10) : 2 * (column // 10) + 2, column % 10]
        _tumor(pair, clean, kind.name, plan)
    return figure


def _tumor(pair: NDArray[Any], clean: Case, kind: str, plan: CasePlan) -> None:
    host = next((name for name in find(kind).hosts if organ_mask(clean.structures, find(name).id).any()), None)
    if host is None:
        return
    image = clean.image.astype(np.float32)
    mask = organ_mask(clean.structures, find(host).id)
    grown = insert_tumor(image, mask, plan.spacing, kind, plan.seed + 1, phase=plan.phase)
    k = int(grown.mask.sum(axis=(0, 1)).argmax())
    place = np.array(np.nonzero(grown.mask[:, :, k])).mean(axis=1).astype(int)
    half = 50
    low = np.maximum(place - half, 0)
    cut = (slice(low[0], place[0] + half), slice(low[1], place[1] + half), k)
    window = _LUNG if "Lung" in kind else _SOFT
    for axis, shown, title in ((pair[0], image, kind), (pair[1], grown.image, "")):
        _show(axis, shown[cut], plan.spacing[:2], window, title)
    pair[1].contour(grown.mask[cut].T[:, ::-1], levels=[0.5], colors=["#ff4040"], linewidths=0.6)


def _artifacts(seed: int, _: Path | None) -> "Figure":
    """Draw a slice of the pelvis with each artifact, and with thin and thick slices."""
    base = CasePlan(seed=seed, coverage="pelvis", spacing=(1.0, 1.0, 2.5), whole=True)
    figure, axes = _grid(1, 5)
    shown = [(base, "none"), *((replace(base, artifacts=(name,)), name) for name in ARTIFACTS)]
    shown.append((replace(base, spacing=(1.0, 1.0, 8.0)), "slices of 8 mm"))
    for axis, (plan, title) in zip(axes[0], shown, strict=True):
        case = make_case(plan)
        heads = organ_mask(case.structures, find("Left Head of Femur").id)
        k = int(heads.sum(axis=(0, 1)).argmax())
        if title == "metal":
            k = int((case.image > 2500).sum(axis=(0, 1)).argmax())
        _show(axis, case.image[:, :, k], (1.0, 1.0), (-250, 350), title)
    return figure


def _grid(rows: int, columns: int) -> tuple["Figure", NDArray[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures need matplotlib", mend='Install it: pip install "dsmseg[report]"') from error
    figure = Figure(figsize=(2.6 * columns, 2.35 * rows), layout="tight")
    axes = np.array(figure.subplots(rows, columns)).reshape(rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _show(
    axis: "Axes",
    image: NDArray[Any],
    spacing: Sequence[float],
    window: tuple[float, float],
    title: str,
    *,
    flip: bool = True,
) -> None:
    """Show a slice as radiologists see it: the patient's right on the left."""
    shown = image.T[:, ::-1] if flip else image.T
    axis.imshow(shown, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", aspect=spacing[1] / spacing[0])
    axis.set_title(title, fontsize=8)


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
