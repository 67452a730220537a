#!/usr/bin/env python3
"""Writes reference.h: what ONNX Runtime makes of the tiny networks in tests/fixtures/models. Needs onnxruntime, numpy.

Inputs are formulas that driver.c repeats. Run it when the fixtures change: reference.py > reference.h; committed.
"""
import pathlib
import numpy as np
import onnxruntime as ort

models = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "models"
BATCH = 3


def show(name, values):
    flat = np.asarray(values, np.float32).ravel()
    print(f"static const float {name}[{flat.size}] = {{")
    for i in range(0, flat.size, 4):
        print("    " + " ".join(f"{v:.9g}{'' if '.' in f'{v:.9g}' or 'e' in f'{v:.9g}' else '.0'}F," for v in flat[i:i + 4]))
    print("};")


def run(model, feed):
    session = ort.InferenceSession(str(models / model), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed)))


view = ((np.arange(BATCH * 8 * 8 * 6) * 37 + 11) % 251).astype(np.uint8).reshape(BATCH, 8, 8, 6)
features = np.sin(np.arange(BATCH * 16 * 4) * 0.37).astype(np.float32).reshape(BATCH, 16, 4)
encoder = run("encoder.onnx", {"view": view})
head = run("head.onnx", {"features": features})
print(f"/* Written by reference.py with ONNX Runtime {ort.__version__}, CPU. Not to be edited.")
print("   Inputs: view[i] = (37 i + 11) mod 251; features[i] = sin(0.37 i); batch", BATCH, "*/")
print("#pragma once")
print(f"enum {{ REFERENCE_BATCH = {BATCH} }};")
show("reference_features", encoder["features"])
show("reference_map", encoder["map"])
show("reference_probabilities", head["probabilities"])
