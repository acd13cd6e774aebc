"""Weights in and out: a head's rows from nn.Linear, NumPy, PartialFC and safetensors, and into them, FAISS and ONNX.

Only a row's direction enters a head's logits, scale * cosine (+ bias). ``load_*`` write rows with the lengths that they
have, which matter to the optimizer alone (a step turns a short row further), in the head's own dtype; to a head in 8
bits they are brought to length 1 first. They look at all of it before they change anything, a part at a time, and raise
ValueError or TypeError in one sentence. A head's bias becomes the one that is given, or 0. Index and optimizer notice
what is written (``row_parameter``); momentum that an optimizer has gathered stays, so load before you train. Where
classes are split, all processes call ``load_*`` together, each takes its own rows, and what one refuses all refuse.

``to_*`` bring rows that lag behind their optimizer up to date first, and need all classes in one process.
"""

from annsoftmax_ref.exchange.into import load_linear, load_numpy, load_safetensors
from annsoftmax_ref.exchange.onnx_file import to_onnx
from annsoftmax_ref.exchange.out import to_faiss, to_linear, to_numpy, to_safetensors
from annsoftmax_ref.exchange.partial_fc import load_partial_fc

__all__ = [
    "load_linear",
    "load_numpy",
    "load_partial_fc",
    "load_safetensors",
    "to_faiss",
    "to_linear",
    "to_numpy",
    "to_onnx",
    "to_safetensors",
]
