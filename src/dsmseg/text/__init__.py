"""Class prompts as embeddings (§ 4.2.3): the packaged table here, any other text through `dsmseg.text.minilm`."""

from dsmseg.text.packaged import packaged_embeddings

__all__ = ["packaged_embeddings"]
