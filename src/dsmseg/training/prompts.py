"""The embeddings of the class prompts that a recipe trains with."""

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dsmseg.errors import InputError
from dsmseg.model import PRESETS
from dsmseg.taxonomy import CLASSES
from dsmseg.text import packaged_embeddings
from dsmseg.training.recipe import Recipe


def text_embeddings(recipe: Recipe) -> Float[Tensor, "class width"]:
    """Give the class prompts' embeddings: the recipe's file, or the packaged table if it has the preset's width.

    Raises:
        InputError: the file cannot be read or does not fit, or one is needed and not named.
    """
    width = PRESETS[recipe.preset].text_width
    if recipe.text is None:
        table = torch.from_numpy(packaged_embeddings())
        if table.shape[1] == width:
            return table
        raise InputError(
            f"preset {recipe.preset} needs text embeddings of width {width}", where="text",
            mend="Name a .safetensors file with 'embeddings' (45 rows in the taxonomy's order).",
        )  # fmt: skip
    path = recipe.data / recipe.text
    try:
        table = load_file(path)["embeddings"].float()
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"cannot be read ({error})", where=path, mend="Give a safetensors 'embeddings'.") from error
    if tuple(table.shape) != (len(CLASSES), width):
        shape = " x ".join(map(str, table.shape))
        raise InputError(f"is {shape}, not {len(CLASSES)} x {width}", where=path, mend="Take the preset's encoder.")
    return table
