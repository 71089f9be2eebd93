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

The drawing with shapes, and what each row of Table 5 replaces: docs/model.md.
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsmseg.model.anomaly_prompt import anomaly_score
from dsmseg.model.config import DSMConfig
from dsmseg.model.conv_unet import ConvUNet
from dsmseg.model.features import Backbone
from dsmseg.model.kmax_mamba import KMaxMambaDecoder
from dsmseg.model.query_classification import Proposals, QueryClassification, class_masks
from dsmseg.model.query_refinement import QueryRefinementDecoder
from dsmseg.model.swin_unetr import SwinUNETR
from dsmseg.model.text_alignment import TextAlignment


class DSMOutput(NamedTuple):
    """What the network says of a batch. Logits become soft masks by a sigmoid.

    organ_logits: ``(batch, organ, x, y, z)``.
    presence: is the organ in the patch at all, ``(batch, organ)`` logits (§ 4.1.2).
    responses: R_1..R_4 before argmax, ``(batch, organ, x_i, y_i, z_i)`` logits at strides 32, 16, 8, 4.
    anomaly: A_4 of Eq. 14, ``(batch, x_4, y_4, z_4)``, higher where no organ query answers.
    tumor_logits: ``(batch, tumor, x, y, z)``; None in Stage 1.
    log_probability: log p of Eq. 20, of each query for each text, ``(batch, query, text)``; None in Stage 1 and in
        rows 1 and 5 of Table 5.
    proposals: in rows 1 and 5 of Table 5, each query's mask and class, to be trained by ``hungarian_loss``. Organ and
        tumor logits are then read from them by ``class_masks`` and pass no gradient. None otherwise.
    """

    organ_logits: Float[Tensor, "batch organ x y z"]
    presence: Float[Tensor, "batch organ"]
    responses: list[Float[Tensor, "batch organ x_i y_i z_i"]]
    anomaly: Float[Tensor, "batch x_4 y_4 z_4"]
    tumor_logits: Float[Tensor, "batch tumor x y z"] | None
    log_probability: Float[Tensor, "batch query text"] | None
    proposals: Proposals | None = None


class MaskHead(nn.Module):
    """Masks as the dot product of query and voxel embeddings; query k is of class k, "a fixed match" (§ 4.1.1)."""

    def __init__(self, *, width: int, embedding_channels: int) -> None:
        super().__init__()
        hidden, output = nn.Linear(width, width), nn.Linear(width, embedding_channels + 1)
        with torch.no_grad():
            output.bias[-1] = -2.0  # most voxels are not of a given class
        self.kernel = nn.Sequential(nn.LayerNorm(width), hidden, nn.GELU(), output)

    def forward(
        self, queries: Float[Tensor, "batch query width"], embedding: Float[Tensor, "batch channel x y z"]
    ) -> Float[Tensor, "batch query x y z"]:
        """Give mask logits. The last value of a query's kernel is its bias."""
        kernel = self.kernel(queries).to(embedding.dtype)
        masks: Tensor = kernel[..., :-1] @ embedding.flatten(2)
        masks += kernel[..., -1:]  # in place: at full resolution, a map of 45 masks takes 160 MB
        return masks.reshape(*masks.shape[:2], *embedding.shape[2:])


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
        self.text_alignment = text_alignment
        self.query_classification = query_classification

    def forward(self, image: Float[Tensor, "batch window x y z"]) -> DSMOutput:
        """Segment ``image``, one channel a HU window scaled to [0, 1]. conv_unet takes multiples of 32 only."""
        features = self.backbone(image)
        organ_queries, responses = self.organ_decoder(features.levels)
        # R_i of Eq. 14 is the soft response: min-max and its threshold would differ on logits.
        anomalies = [anomaly_score(response.sigmoid()) for response in responses]
        tumor_logits = log_probability = class_logits = None
        if self.tumor_decoder is not None and self.tumor_head is not None:
            organ_queries, tumor_queries = self.tumor_decoder(features.levels, organ_queries, anomalies)
            tumor_logits = self.tumor_head(tumor_queries, features.embedding)
            queries = torch.cat([organ_queries, tumor_queries], dim=1)
            log_probability = self.text_alignment(queries) if self.text_alignment else None
            class_logits = self.query_classification(queries) if self.query_classification else None
        output = DSMOutput(
            organ_logits=self.organ_head(organ_queries, features.embedding),
            presence=self.presence_head(organ_queries).squeeze(-1),
            responses=responses,
            anomaly=anomalies[-1],
            tumor_logits=tumor_logits,
            log_probability=log_probability,
        )
        if tumor_logits is None or class_logits is None:
            return output
        return _read_classes(output, tumor_logits, class_logits)


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
        state_space=config.state_space,
    )
    organ_head = MaskHead(width=width, embedding_channels=backbone.embedding_channels)
    presence_head = nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, 1)
    )
    stage_1 = partial(
        DSM, backbone=backbone, organ_decoder=organ_decoder, organ_head=organ_head, presence_head=presence_head
    )
    if config.stage == 1:
        return stage_1()
    tumor_decoder = QueryRefinementDecoder(
        level_channels=backbone.level_channels,
        tumors=config.tumors,
        width=width,
        heads=config.heads,
        feed_forward_width=feed_forward_width,
        diffusion=config.diffusion,
        mask_prompt=config.mask_prompt,
        prompt=config.prompt,
    )
    tumor_head = MaskHead(width=width, embedding_channels=backbone.embedding_channels)
    stage_2 = partial(stage_1, tumor_decoder=tumor_decoder, tumor_head=tumor_head)
    if not config.text_alignment:
        return stage_2(query_classification=QueryClassification(width=width, classes=config.organs + config.tumors))
    if text_embeddings is None:
        raise ValueError("Stage 2 needs the class prompts' text embeddings")
    return stage_2(text_alignment=TextAlignment(text_embeddings, query_width=width))


def build_backbone(config: DSMConfig) -> ConvUNet | SwinUNETR:
    """Build the vision encoder and decoder of ``config``, untrained."""
    if config.backbone == "conv_unet":
        return ConvUNet(input_channels=config.input_channels, channels=config.channels)
    return SwinUNETR(input_channels=config.input_channels, feature_size=config.feature_size)
