"""Vedette's training kit: from labelled video to a model directory that the agent takes.

The order in which the modules build on each other:

    errors, files          what goes wrong; digests and atomic writes
    recipe, classmap       what is to be made, of which labels
    clips, ucf             what it is made from
    splits                 who may see what: one source is never on both sides
    agent                  the pixels, always those of `vedette`
    augment, features      what heads are trained on, cached
    backbone, encoder      the CNN                        (PyTorch)
    heads, logistic        what looks at a window         (PyTorch; NumPy)
    fit, crossval          training, and its honest repetition
    metrics, calibration   figures
    graph, halves, package the model directory
"""
import os

# Nothing about the footage or the machine goes to the maker of ONNX Runtime; read when its library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
