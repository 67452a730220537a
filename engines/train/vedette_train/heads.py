"""The heads: what looks at a window of features. In PyTorch; `graph_head` writes the same as graphs.

    features -> standardised, clipped -> linear, LayerNorm, ReLU, dropout -> (recurrence) -> one vector -> linear

| kind | recurrence | the one vector |
|---|---|---|
| lstm, gru | one layer | the last state |
| bilstm | one layer each way | the last state of both |
| attention | none: order does not count | attention-weighted mean of the frames |
| lstm_attention | one LSTM layer | attention-weighted mean of its states |

`logistic` is in a file of its own, in NumPy.
"""
import numpy as np
import torch
from torch import nn

from .recipe import Head as Spec

RECURRENT = {"lstm": nn.LSTM, "bilstm": nn.LSTM, "gru": nn.GRU, "lstm_attention": nn.LSTM}


class Head(nn.Module):
    """Standardised, clipped features [N,window,F] -> logits [N,classes]."""

    def __init__(self, spec: Spec, features: int, classes: int):
        super().__init__()
        self.kind = spec.kind
        self.project = nn.Sequential(nn.Linear(features, spec.project), nn.LayerNorm(spec.project), nn.ReLU(), nn.Dropout(spec.dropout))
        width = spec.project
        if spec.kind in RECURRENT:
            both = spec.kind == "bilstm"
            self.recurrent = RECURRENT[spec.kind](spec.project, spec.state, batch_first=True, bidirectional=both)
            width = spec.state * (2 if both else 1)
        if spec.kind in ("attention", "lstm_attention"):
            self.attention = nn.Linear(width, 1)
        self.out = nn.Sequential(nn.Dropout(spec.dropout), nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = x = self.project(x)
        if self.kind in RECURRENT:
            states, last = self.recurrent(x)
            last = last[0] if isinstance(last, tuple) else last
        if hasattr(self, "attention"):
            one = (self.attention(states).softmax(1) * states).sum(1)
        else:
            one = last.transpose(0, 1).flatten(1)
        return self.out(one)

    def arrays(self) -> dict[str, np.ndarray]:
        return {k: v.detach().cpu().numpy().copy() for k, v in self.state_dict().items()}


def of_arrays(spec: Spec, arrays: dict[str, np.ndarray]) -> Head:
    features, classes = arrays["project.0.weight"].shape[1], len(arrays["out.1.bias"])
    head = Head(spec, features, classes)
    head.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
    return head.eval()
