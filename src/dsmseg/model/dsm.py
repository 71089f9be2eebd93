"""The assembly of DSM: Stage 1 (§ 4.1, Fig. 2a) and Stage 2 (§ 4.2, Fig. 2b).

image -> backbone -> F_1..F_4, F^_4
                        |
O -> kMM decoder (Eq. 9, 10) -> O^, R_1..R_4          Stage 1: masks = O^ F^_4
                        |
         A_i = -max R_i (Eq. 14) -> M_i (Eq. 15)
                        |
T -> DQR decoder (Eq. 16-19) -> T^, O^                Stage 2: masks = [O^, T^] F^_4
                        |
         text alignment (Eq. 20) -> p

F^_4 is the embedding and, beside it, the decoder's map at stride 2 (``MaskHead``).

The drawing with shapes, and what each row of Table 5 replaces: docs/model.md.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.anomaly_prompt import anomaly_score, deviation_scores
from dsmseg.model.attention import START_SCALE
from dsmseg.model.config import DSMConfig
from dsmseg.model.conv_unet import ConvUNet
from dsmseg.model.deviation_branch import DeviationBranch, Deviations
from dsmseg.model.features import Backbone, PixelFeatures
from dsmseg.model.kmax_mamba import KMaxMambaDecoder, OrganAnswers
from dsmseg.model.mask_head import MaskHead
from dsmseg.model.query_classification import Proposals, QueryClassification, class_masks
from dsmseg.model.query_refinement import QueryRefinementDecoder, RefinedQueries
from dsmseg.model.swin_unetr import SwinUNETR
from dsmseg.model.text_alignment import TextAlignment

SURE = 10.0
"""Logit of a voxel that a label says to be of an organ."""

REACH = 1
"""Voxels of stride 2 around a host, 6 mm at 3 mm: a tumor at its surface is partly outside of its mask."""


class DSMOutput(NamedTuple):
    """What the network says of a batch. Logits become soft masks by a sigmoid.

    organ_logits: ``(batch, organ, x, y, z)``.
    presence: is the organ in the patch at all, ``(batch, organ)`` logits (§ 4.1.2).
    responses: R_1..R_4 before argmax, ``(batch, organ, x_i, y_i, z_i)`` logits at strides 32, 16, 8, 4.
    background: the same of the background queries; empty where there are none.
    anomaly: A_4 of Eq. 14, ``(batch, x_4, y_4, z_4)``, higher where no organ query answers.
    tumor_logits: ``(batch, tumor, x, y, z)``; None in Stage 1. In evaluation mode a voxel's odds are weighed by the
        probability that the tumor is in the patch at all.
    tumor_presence: logits of that, ``(batch, tumor)``; None in Stage 1.
    tumor_responses: of the tumor queries, ``(batch, tumor, x_i, y_i, z_i)`` logits at strides 8 and 4; none in Stage 1.
    any_tumor: how much a voxel looks like a tumor, of whatever organ, ``(batch, x_2, y_2, z_2)`` logits at stride 2;
        None without the branch that tells it. `answered_in_hosts` lets it answer for kinds that were never labelled.
    log_probability: log p of Eq. 20, of each query for each text, ``(batch, query, text)``; None in Stage 1 and in
        rows 1 and 5 of Table 5.
    proposals: in rows 1 and 5 of Table 5, each query's mask and class, to be trained by ``hungarian_loss``. Organ and
        tumor logits are then read from them by ``class_masks`` and pass no gradient. None otherwise.
    """

    organ_logits: Float[Tensor, "batch organ x y z"]
    presence: Float[Tensor, "batch organ"]
    responses: list[Float[Tensor, "batch organ x_i y_i z_i"]]
    anomaly: Float[Tensor, "batch x_4 y_4 z_4"]
    tumor_logits: Float[Tensor, "batch tumor x y z"] | None = None
    log_probability: Float[Tensor, "batch query text"] | None = None
    proposals: Proposals | None = None
    background: Sequence[Float[Tensor, "batch background x_i y_i z_i"]] = ()
    tumor_presence: Float[Tensor, "batch tumor"] | None = None
    tumor_responses: Sequence[Float[Tensor, "batch tumor x_i y_i z_i"]] = ()
    any_tumor: Float[Tensor, "batch x_2 y_2 z_2"] | None = None


class DSM(nn.Module):
    """Stage 1, and Stage 2 where its decoder is given."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        organ_decoder: KMaxMambaDecoder,
        organ_head: MaskHead,
        presence_head: nn.Module,
        tumor_decoder: QueryRefinementDecoder | None = None,
        tumor_head: MaskHead | None = None,
        tumor_presence_head: nn.Module | None = None,
        deviation_branch: DeviationBranch | None = None,
        text_alignment: TextAlignment | None = None,
        query_classification: QueryClassification | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.organ_decoder = organ_decoder
        self.organ_head = organ_head
        self.presence_head = presence_head
        self.tumor_decoder = tumor_decoder
        self.tumor_head = tumor_head
        self.tumor_presence_head = tumor_presence_head
        self.deviation_branch = deviation_branch
        self.text_alignment = text_alignment
        self.query_classification = query_classification

    def forward(
        self,
        image: Float[Tensor, "batch window x y z"],
        told: Mapping[tuple[int, int], Bool[Tensor, "x y z"]] | None = None,
        *,
        branch_alone: bool = False,
    ) -> DSMOutput:
        """Segment ``image``, one channel a HU window scaled to [0, 1]. conv_unet takes multiples of 32 only.

        Args:
            image: of a batch.
            told: in training, by item and organ, the masks that the deviation branch is to go by in place of the
                network's own.
            branch_alone: in training of Stage 2 with a deviation branch, give the masks of tumor queries that have not
                looked at the levels, from what the branch sees of the organs that are ``told``. Nothing else is asked:
                the other answers are empty.
        """
        if branch_alone:
            return self._branch_alone(image, told or {})
        features = self.backbone(image)
        organs = self.organ_decoder(features.levels)
        # R_i of Eq. 14 is the soft response: min-max and its threshold would differ on logits.
        anomalies = [anomaly_score(response.sigmoid()) for response in organs.responses]
        if self.tumor_decoder is None:
            return self._organs(organs, organs.queries, self.organ_head(organs.queries, features), anomalies)
        seen: Deviations | None = None
        if self.deviation_branch is not None:
            with torch.no_grad():
                found = self.organ_head(organs.queries, features)
            seen = self.deviation_branch(image, _as_told(found, told or {}))
        finest = features.half if self._reads_half else features.embedding
        by_deviation = self.tumor_decoder.points_to == "deviation"
        scores = deviation_scores(image, organs.responses) if by_deviation else anomalies
        levels: Sequence[Tensor] = features.levels
        if self.deviation_branch is not None and seen is not None:
            levels = self.deviation_branch.added_to(levels, seen)
        refined = self.tumor_decoder(levels, organs.queries, scores, finest)
        features = features._replace(**{"half" if self._reads_half else "embedding": refined.finest})
        output = self._organs(organs, refined.organs, self.organ_head(refined.organs, features), anomalies)
        if seen is None:
            return self._with_tumors(output, refined, features)
        output = self._with_tumors(output, refined, self._beside(features, seen))
        return output._replace(any_tumor=seen.any_tumor)

    @property
    def _reads_half(self) -> bool:
        """Whether organs' masks are read from the map at stride 2 as well."""
        return self.organ_head.half_channels > 0

    def _beside(self, features: PixelFeatures, seen: Deviations) -> PixelFeatures:
        """Give what tumors read: what the branch sees beside what organs read."""
        half = [features.half, seen.half.to(features.half.dtype)] if self._reads_half else [seen.half]
        embedding = torch.cat([features.embedding, seen.read.to(features.embedding.dtype)], dim=1)
        return features._replace(embedding=embedding, half=torch.cat(half, dim=1))

    def _branch_alone(
        self, image: Float[Tensor, "batch window x y z"], told: Mapping[tuple[int, int], Bool[Tensor, "x y z"]]
    ) -> DSMOutput:
        """Say what tumor queries that have not looked read from what the branch sees of organs that are told."""
        if self.deviation_branch is None or self.tumor_decoder is None or self.tumor_head is None:
            raise ValueError("only Stage 2 with a deviation branch can answer by it alone")
        batch, _, *size = image.shape
        organs = image.new_full((batch, self.organ_decoder.organs, *size), -SURE)
        organs = _as_told(organs, told)
        seen: Deviations = self.deviation_branch(image, organs)
        backbone = self.backbone
        half = seen.half.new_zeros(batch, backbone.half_channels, *seen.half.shape[2:])
        nothing = PixelFeatures((), half, seen.read.new_zeros(batch, backbone.embedding_channels, *size))
        tumor_logits: Tensor = self.tumor_head(self.tumor_decoder.unrefined(batch), self._beside(nothing, seen))
        return DSMOutput(
            organ_logits=organs,
            presence=image.new_zeros(organs.shape[:2]),
            responses=[],
            anomaly=image.new_zeros(batch, 0, 0, 0),
            tumor_logits=tumor_logits,
            any_tumor=seen.any_tumor,
        )

    def _organs(
        self,
        organs: OrganAnswers,
        queries: Float[Tensor, "batch organ width"],
        organ_logits: Float[Tensor, "batch organ x y z"],
        anomalies: Sequence[Float[Tensor, "batch x_i y_i z_i"]],
    ) -> DSMOutput:
        """Give what organ ``queries``, those of Stage 1 or refined by Stage 2, say, with their masks."""
        return DSMOutput(
            organ_logits=organ_logits,
            presence=self.presence_head(queries).squeeze(-1),
            responses=organs.responses,
            background=organs.background,
            anomaly=anomalies[-1],
        )

    def _with_tumors(self, output: DSMOutput, refined: RefinedQueries, features: PixelFeatures) -> DSMOutput:
        """Add what the tumor queries say, and what each query means."""
        if self.tumor_head is None or self.tumor_presence_head is None:
            raise ValueError("Stage 2 needs the heads of tumors beside their decoder")
        queries = torch.cat([refined.organs, refined.tumors], dim=1)
        tumor_logits: Tensor = self.tumor_head(refined.tumors, features)
        output = output._replace(
            tumor_logits=tumor_logits,
            tumor_presence=self.tumor_presence_head(refined.tumors).squeeze(-1),
            tumor_responses=refined.responses,
            log_probability=self.text_alignment(queries) if self.text_alignment else None,
        )
        if self.query_classification is not None:
            output = _read_classes(output, tumor_logits, self.query_classification(queries))
        return output if self.training else _weighed_by_presence(output)


def _as_told(
    organ_logits: Float[Tensor, "batch organ x y z"], told: Mapping[tuple[int, int], Bool[Tensor, "x y z"]]
) -> Float[Tensor, "batch organ x y z"]:
    """Put masks that are told, by item and organ, in the place of the network's own."""
    if told:
        organ_logits = organ_logits.clone()
    for (item, organ), mask in told.items():
        organ_logits[item, organ] = torch.where(mask, SURE, -SURE)
    return organ_logits


def answered_in_hosts(output: DSMOutput, unseen: Mapping[int, Sequence[int]]) -> DSMOutput:
    """Let the logits of any tumor, in and near a kind's hosts, stand for those of kinds that were never labelled.

    No label teaches their queries, so that to the letter these answer by chance (docs/decisions/0040).

    Args:
        output: of Stage 2.
        unseen: indices of such tumors, each with the indices of its host organs.
    """
    if not unseen or output.tumor_logits is None or output.any_tumor is None:
        return output
    logits = output.tumor_logits.clone()
    x, y, z = logits.shape[2:]
    for tumor, hosts in unseen.items():
        host = output.organ_logits[:, list(hosts)].amax(dim=1, keepdim=True).float()
        claimed = functional.max_pool3d(host, 2, ceil_mode=True)
        near = functional.max_pool3d(claimed, 2 * REACH + 1, stride=1, padding=REACH)
        answer = torch.minimum(output.any_tumor[:, None].to(near.dtype), near)
        logits[:, tumor] = functional.interpolate(answer, scale_factor=2, mode="nearest")[:, 0, :x, :y, :z]
    return output._replace(tumor_logits=logits)


def _weighed_by_presence(output: DSMOutput) -> DSMOutput:
    """Multiply the odds of every voxel of a tumor by the probability that the tumor is there: against false alarms."""
    if output.tumor_logits is None or output.tumor_presence is None:
        return output
    presence = output.tumor_presence
    presence = presence.to(torch.promote_types(presence.dtype, torch.float32))
    discount = functional.logsigmoid(presence)[..., None, None, None]
    return output._replace(tumor_logits=output.tumor_logits + discount.to(output.tumor_logits.dtype))


def _read_classes(
    output: DSMOutput,
    tumor_logits: Float[Tensor, "batch tumor x y z"],
    class_logits: Float[Tensor, "batch query class_or_none"],
) -> DSMOutput:
    """Put the masks of classes in the place of those of queries, which become proposals (Table 5, rows 1 and 5)."""
    proposals = Proposals(torch.cat([output.organ_logits, tumor_logits], dim=1), class_logits)
    masks, organs = class_masks(proposals), output.organ_logits.shape[1]
    return output._replace(organ_logits=masks[:, :organs], tumor_logits=masks[:, organs:], proposals=proposals)


def build(config: DSMConfig, text_embeddings: Float[Tensor, "class text_width"] | None = None) -> DSM:
    """Build the network of ``config``, untrained. Text alignment needs the class prompts' ``text_embeddings``."""
    backbone = build_backbone(config)
    width, feed_forward_width = config.query_width, config.feed_forward_width
    organ_decoder = KMaxMambaDecoder(
        level_channels=backbone.level_channels,
        organs=config.organs,
        width=width,
        heads=config.heads,
        feed_forward_width=feed_forward_width,
        state=config.state,
        background=config.readings.background_queries,
        state_space=config.state_space,
        reading=config.readings.response,
    )
    half_channels = backbone.half_channels if config.readings.half_masks else 0
    mask_head = partial(MaskHead, width=width)
    stage_1 = partial(
        DSM,
        backbone=backbone,
        organ_decoder=organ_decoder,
        organ_head=mask_head(embedding_channels=backbone.embedding_channels, half_channels=half_channels),
        presence_head=_presence_head(width),
    )
    if config.stage == 1:
        return stage_1()
    tumor_decoder = QueryRefinementDecoder(
        level_channels=backbone.level_channels,
        finest_channels=half_channels or backbone.embedding_channels,
        width=width,
        tumors=config.tumors,
        heads=config.heads,
        feed_forward_width=feed_forward_width,
        diffusion=config.diffusion,
        mask_prompt=config.mask_prompt,
        prompt=config.prompt,
    )
    branch = None
    if config.readings.deviation:
        branch = DeviationBranch(
            windows=config.input_channels,
            level_channels=backbone.level_channels,
        )
    tumor_head = mask_head(
        embedding_channels=backbone.embedding_channels + (branch.read_channels if branch else 0),
        half_channels=half_channels + (branch.channels if branch else 0),
    )
    if branch is not None:
        _begin_with_branch(tumor_head, backbone.embedding_channels, half_channels)
    stage_2 = partial(
        stage_1,
        tumor_decoder=tumor_decoder,
        tumor_head=tumor_head,
        tumor_presence_head=_presence_head(width),
        deviation_branch=branch,
    )
    if not config.text_alignment:
        return stage_2(query_classification=QueryClassification(width=width, classes=config.organs + config.tumors))
    if text_embeddings is None:
        raise ValueError("Stage 2 needs the class prompts' text embeddings")
    alignment = TextAlignment(text_embeddings, query_width=width, center=config.readings.center_text)
    return stage_2(text_alignment=alignment)


@torch.no_grad()
def _begin_with_branch(head: MaskHead, embedding_channels: int, half_channels: int) -> None:
    """Let tumors' masks begin with next to nothing of the backbone's channels, which lie before those of the branch.

    A branch that has learned alone, with nothing beside it, is then not drowned when they come in.
    """
    kernel = head.kernel[-1]
    for first, count in ((0, embedding_channels), (head.embedding_channels, half_channels)):
        for parameter in kernel.parameters():
            parameter[first : first + count].mul_(START_SCALE)


def _presence_head(width: int) -> nn.Sequential:
    """Build what tells from a query whether its class is in the patch at all (§ 4.1.2: "the output from the MLP")."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, 1))


def build_backbone(config: DSMConfig) -> ConvUNet | SwinUNETR:
    """Build the vision encoder and decoder of ``config``, untrained."""
    if config.backbone == "conv_unet":
        return ConvUNet(input_channels=config.input_channels, channels=config.channels)
    return SwinUNETR(input_channels=config.input_channels, feature_size=config.feature_size)
