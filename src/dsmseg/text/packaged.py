"""The MiniLM embeddings of the 45 class prompts, as a table in the package: no text encoder is needed to run."""

import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.numpy import load

from dsmseg.errors import WeightsError
from dsmseg.taxonomy import CLASSES

TABLE = "minilm_45x384.safetensors"
RECORD = "minilm_45x384.json"


def packaged_embeddings() -> Float[NDArray[np.float32], "45 384"]:
    """The embedding of each class prompt, rows in the order of the taxonomy, each of Euclidean length 1.

    The record beside the table says what it was made from and how (`dsmseg.text.table`).

    Raises:
        WeightsError: the table is missing or differs from its record, or was made for other prompts.
    """
    return read_table(Path(__file__).parent)


def read_table(folder: Path) -> Float[NDArray[np.float32], "45 384"]:
    """Read the table in ``folder`` and check it against its record and the taxonomy.

    Raises:
        WeightsError: as for `packaged_embeddings`.
    """
    try:
        content = (folder / TABLE).read_bytes()
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != record.get("sha256"):
        raise _unusable(folder, "differs from the sha256 in its record")
    prompts = [{"name": one.name, "prompt": one.prompt} for one in CLASSES]
    if record.get("rows") != prompts:
        raise _unusable(folder, "was made for other prompts than the taxonomy's, or in another order")
    return load(content)["embeddings"]


def _unusable(folder: Path, fault: str) -> WeightsError:
    mend = 'Install dsmseg anew, or make the table: pip install "dsmseg[minilm]", then python -m dsmseg.text.table.'
    return WeightsError(f"the table of prompt embeddings {fault}", where=folder / TABLE, mend=mend)
