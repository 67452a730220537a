"""Logistic regression over the mean and the spread of a window's features: no order, no network, NumPy alone. The
honest baseline of every other head, and what the light smoke test trains."""
import numpy as np


def pooled(x: np.ndarray) -> np.ndarray:
    """[k,window,F] -> [k,2F]"""
    mean = x.mean(1)
    return np.concatenate([mean, np.sqrt(((x - mean[:, None]) ** 2).mean(1) + 1e-8)], 1)


def logits(head: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return pooled(x) @ head["weight"].T + head["bias"]


def fit(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, l2: float, steps: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """Standardised windows [k,window,F], targets [k,classes] that sum to 1, a weight for each; by Nesterov's gradient steps
    from zero, so that there is nothing random in it. Also gives the loss at each step."""
    features = pooled(x).astype(np.float64)
    features = np.concatenate([features, np.ones((len(features), 1))], 1)
    weights = weights / weights.sum()
    decay = np.full(features.shape[1], l2 / features.shape[1])
    decay[-1] = 0                                        # the bias is free
    # The curvature is at most half the weighted covariance's largest eigenvalue.
    v = np.ones(features.shape[1])
    for _ in range(30):
        v = features.T @ (weights * (features @ v))
        v /= np.linalg.norm(v)
    step = 1 / (0.55 * float(v @ (features.T @ (weights * (features @ v)))) + decay.max())
    w = ahead = np.zeros((targets.shape[1], features.shape[1]))
    losses = []
    for n in range(steps):
        z = features @ ahead.T
        z -= z.max(1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        losses.append(float(-(weights[:, None] * targets * log_p).sum()))
        gradient = (weights[:, None] * (np.exp(log_p) - targets)).T @ features + decay * ahead
        after = ahead - step * gradient
        ahead, w = after + n / (n + 3) * (after - w), after
    return {"weight": w[:, :-1].astype(np.float32), "bias": w[:, -1].astype(np.float32)}, losses
