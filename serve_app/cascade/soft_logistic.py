"""Logistic regression on soft labels in [0, 1]; scikit-learn does the work."""

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DependencyError

Floats = NDArray[np.float64]
_ITERATIONS = 2_000


def fit_soft(x: Floats, ok: Floats, strength: float) -> tuple[Floats, float]:
    """Weights [k] and bias from x [n, k]; `strength` is the inverse L2 penalty.

    Each row stands once for either class, weighted by its quality. One class alone gives no weights and a smoothed
    bias. Raises DependencyError without scikit-learn.
    """
    sure = np.concatenate([ok, 1 - ok])
    labels = np.concatenate([np.ones(len(ok)), np.zeros(len(ok))])
    used = sure > 0
    if len(np.unique(labels[used])) == 1:
        share = (float(ok.sum()) + 0.5) / (len(ok) + 1)
        return np.zeros(x.shape[1]), float(np.log(share / (1 - share)))
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise DependencyError('fitting a cascade needs scikit-learn: pip install "jethro[train]"') from None
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    model.fit(np.concatenate([x, x])[used], labels[used], sample_weight=sure[used])
    return model.coef_[0], float(model.intercept_[0])


def log_loss(log_odds: Floats, ok: Floats) -> float:
    """Mean cross-entropy of soft labels, in nats."""
    return float(np.mean(np.logaddexp(0.0, log_odds) - ok * log_odds))
