"""Probabilities of classes at each voxel of a scan: for those who measure scores rather than labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import nn

from dsmseg.baselines import Baseline
from dsmseg.checkpoint import Card
from dsmseg.inference.anomaly import anomaly_map
from dsmseg.inference.blending import SlidingWindow, Tiling
from dsmseg.inference.choosing import unseen_channels
from dsmseg.inference.framing import frame_body
from dsmseg.inference.postprocessing import Claims, remove_fragments
from dsmseg.inference.prompting import WINDOWS_HEARD, Prompts
from dsmseg.inference.runtime import choose_runtime
from dsmseg.inference.windows import DEFAULT_OVERLAP
from dsmseg.model.text_alignment import TextAlignment
from dsmseg.taxonomy import CLASSES, ORGANS, TUMORS, StructureClass
from dsmseg.volume import Grid, Volume, resample_onto

Map = Float32[NDArray[np.float32], "x y z"]

ANY_TUMOR = "any tumor"

IN_HOSTS = "any tumor, in its hosts"

UnseenRule = Literal["in-hosts", "any-query", "same-kind", "any-tumor"]
"""How DSM answers for a class that it was not trained for; `soft_maps` says how each does."""
UNSEEN: UnseenRule = "in-hosts"


@dataclass(frozen=True, slots=True)
class SoftMaps:
    """What a network says of a scan, on its grid in RAS.

    probabilities: of each class that was asked for, by name, 0..1, and 0 outside of the body.
    anomaly: how unlike its own organ a voxel is, 0..1 (`anomaly_map`), of the organs that the weights were trained for.
    unexplained: 1 + A of Eq. 14, or of a baseline's own anomaly, 0..1.
    answered_by: for a class that the weights were not trained for, whose query answered, or "any tumor", or what a
        baseline says of itself (`Baseline.answers_unseen_by`).
    """

    probabilities: dict[str, Map]
    anomaly: Map
    unexplained: Map
    answered_by: dict[str, str]


def soft_maps(
    network: nn.Module,
    card: Card,
    volume: Volume,
    classes: Sequence[StructureClass],
    *,
    overlap: float = DEFAULT_OVERLAP,
    device: str = "auto",
    unseen: UnseenRule = UNSEEN,
) -> SoftMaps:
    """Give the probabilities of ``classes``, each for itself: nothing competes, and anatomy has no say.

    A class that the weights were not trained for is answered as its method does it: by DSM as ``unseen`` says; by a
    baseline, its own rule for unseen kinds.

    Args:
        network: with the weights of ``card``, in evaluation mode.
        card: of the weights.
        volume: the scan.
        classes: of the taxonomy.
        overlap: as for `Segmenter`.
        device: as for `Segmenter`.
        unseen: "in-hosts" is what looks like any tumor in and near the class's hosts, by weights that can tell
            (`Card.unseen`), and "any-query" by others. "any-query" is the one that fits the class's prompt best in this
            scan (Eq. 20); "same-kind" the same among the tumors' for a tumor, the organs' for an organ; "any-tumor" the
            most probable tumor of a trained kind, which it always is where weights have no text alignment or no query
            of the kind.
    """
    runtime = choose_runtime(device)
    network = network.to(runtime.device)
    frame = frame_body(volume, card.spacing_mm, card.window)

    def window(tiling: Tiling) -> SlidingWindow:
        return SlidingWindow(network, frame.hu, frame.body, tiling, runtime)

    known = tuple(one for one in CLASSES if one.name in card.organs or one.name in card.tumors)
    in_hosts = set(card.unseen) if unseen == "in-hosts" else set()
    unknown = [one for one in classes if one not in known and one not in in_hosts]
    answering: dict[str, StructureClass | None] = {one.name: one for one in classes}
    if card.method == "dsm" and unknown:
        alignment = getattr(network, "text_alignment", None)
        answering |= dict.fromkeys((one.name for one in unknown), None)
        if isinstance(alignment, TextAlignment) and unseen != "any-tumor":
            first = window(_tiling(card, overlap, (), ()))
            answering |= _best_queries(unknown, known, alignment, first, any_kind=unseen != "same-kind")
    sources = {one for one in answering.values() if one is not None}
    trained = [one for one in known if one.kind == "tumor"]
    asks_any = None in answering.values() and bool(trained)
    if asks_any and not any(one.kind == "tumor" for one in sources):
        sources.add(trained[0])
    trained_organs = [
        one for one in known if one.kind == "organ"
    ]  # all are found, since the anomaly compares with them
    asked_organs, tumors = ([one for one in kind if one in sources] for kind in (ORGANS, TUMORS))
    organs = [*trained_organs, *(one for one in asked_organs if one not in trained_organs)]
    claims = Claims(trained_organs, frame.hu.shape[::-1])
    places = [organs.index(one) for one in asked_organs]
    fields = _collect(window(_tiling(card, overlap, organs, tumors, trained if asks_any else ())), places, claims)
    by_class = dict(zip([*asked_organs, *tumors], fields, strict=False))
    any_tumor = fields[len(places) + len(tumors)] if asks_any else np.zeros_like(fields[-1])
    remove_fragments(claims, trained_organs)

    def restored(field: Map, grid: Grid = frame.grid) -> Map:
        result: Map = resample_onto(Volume(field, grid.affine, grid), volume.grid).array
        return result

    return SoftMaps(
        {name: restored(any_tumor if source is None else by_class[source]) for name, source in answering.items()},
        restored(*anomaly_map(frame, claims, trained_organs)),
        restored(fields[-1]),
        {one.name: _told(network, one, answering[one.name]) for one in unknown}
        | {one.name: IN_HOSTS for one in classes if one in in_hosts},
    )


def _best_queries(
    unknown: Sequence[StructureClass],
    known: Sequence[StructureClass],
    alignment: TextAlignment,
    window: SlidingWindow,
    *,
    any_kind: bool,
) -> dict[str, StructureClass]:
    """Give, by class, the query that fits its prompt best in this scan; none where no window holds body.

    ``any_kind``: an organ's query may answer for a tumor, and a tumor's for an organ.
    """
    prompts = Prompts.of_classes(unknown, alignment)
    with prompts.listening(alignment) as heard:
        window.look(WINDOWS_HEARD)
    if not heard:
        return {}
    best: dict[str, StructureClass] = {}
    for kind in {one.kind for one in unknown}:
        fitting = [one for one in known if any_kind or one.kind == kind]
        asked = {one.name for one in unknown if one.kind == kind}
        matches = prompts.matches(heard, fitting) if fitting else []
        best |= {match.text: match.query for match in matches if match.text in asked}
    return best


def _told(network: nn.Module, asked: StructureClass, source: StructureClass | None) -> str:
    if isinstance(network, Baseline) and source is asked:
        return network.answers_unseen_by
    return ANY_TUMOR if source is None else source.name


def _tiling(
    card: Card,
    overlap: float,
    organs: Sequence[StructureClass],
    tumors: Sequence[StructureClass],
    any_of: Sequence[StructureClass] = (),
) -> Tiling:
    first_organ, first_tumor = ORGANS[0].id, TUMORS[0].id
    return Tiling(
        size=card.window,
        overlap=overlap,
        hu_windows=card.hu_windows,
        organs=[one.id - first_organ for one in organs],
        tumors=[one.id - first_tumor for one in tumors],
        other_tumors=[one.id - first_tumor for one in any_of],
        unseen=unseen_channels(card, tumors),
    )


def _collect(window: SlidingWindow, organs: Sequence[int], claims: Claims) -> list[Map]:
    """Give fields of all slabs put together, on the frame's grid (x, y, z): some organs, tumors, what is unexplained.

    ``claims`` take what the organs claim.
    """
    parts: list[torch.Tensor] = []
    for slab in window:
        claims.add(slab.organs, slab.start)
        new = slice(slab.new - slab.start, None)
        sums = torch.cat([slab.organs.sums[organs], slab.tumors.sums, slab.anomaly.sums])
        parts.append((sums[..., new] * slab.anomaly.shares[..., new]).clamp(0, 1))
    return list(torch.cat(parts, dim=-1).numpy()) if parts else []
