"""Class prompt alignment (§ 4.2.3): which class's text each query means."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class TextAlignment(nn.Module):
    """The class distribution of each query, by cosine similarity with the class prompts' embeddings (Eq. 20).

    The prompts differ in one word, so their embeddings are almost collinear (mean cosine 0.88 for CLIP), and even a
    query that equals its own text could not reach p = 1. Subtracting the mean text removes the shared part.
    """

    def __init__(
        self,
        text_embeddings: Float[Tensor, "text embedding"],
        query_width: int,
        *,
        center: bool = True,
        temperature: float = 0.01,
    ) -> None:
        """Build the alignment.

        Args:
            text_embeddings: one row a class, in taxonomy order. Kept in the state dict, never trained.
            query_width: width of the queries.
            center: subtract the mean class text from every text before normalizing; False is Eq. 20 to the letter.
            temperature: tau of Eq. 20.
        """
        super().__init__()
        self.center = center
        self.temperature = temperature
        self.register_buffer("text_embeddings", text_embeddings.detach().clone().float())
        self.text_embeddings: Tensor
        # Without a bias, a query's scale has no say in its class, as the cosine intends.
        self.projection = nn.Linear(query_width, text_embeddings.shape[1], bias=False)

    def similarity(
        self, queries: Float[Tensor, "batch query width"], text: Float[Tensor, "text embedding"]
    ) -> Float[Tensor, "batch query text"]:
        """Return zeta of Eq. 20, the cosine of each projected query with each text, in float32.

        Args:
            queries: organ and tumor queries.
            text: embeddings by the same text encoder as the class prompts, the class prompts or free text.
        """
        # Under autocast, bf16's 3 digits divided by the temperature would be an error of about 1 in the logits.
        with torch.autocast(queries.device.type, enabled=False):
            text = text.float()
            if self.center:
                text = text - self.text_embeddings.mean(dim=0)
            projected = functional.linear(queries.float(), self.projection.weight.float())
            return functional.normalize(projected, dim=-1) @ functional.normalize(text, dim=-1).T

    def forward(self, queries: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query text"]:
        """Return the log-probability of each class for each query, in float32; Eq. 20's log p_i is the diagonal."""
        return functional.log_softmax(self.similarity(queries, self.text_embeddings) / self.temperature, dim=-1)
