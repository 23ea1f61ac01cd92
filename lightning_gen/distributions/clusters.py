"""K-means clustering, which initialises mixtures and hidden Markov models."""

import numpy as np
import torch
from torch import Tensor


def kmeans(x: Tensor, count: int, seed: int) -> Tensor:
    """Return the cluster (N,) of each row of x (N, D), by scikit-learn's k-means with k-means++ initialisation (Arthur
    and Vassilvitskii 2007)."""
    from sklearn.cluster import KMeans

    rows = x.cpu().numpy()
    if len(np.unique(rows, axis=0)) <= count:  # k-means would warn: give each distinct row its own cluster
        _, own = np.unique(rows, axis=0, return_inverse=True)
        return torch.from_numpy(own.reshape(-1)).to(x.device)
    fitted = KMeans(count, init="k-means++", n_init=1, max_iter=50, random_state=seed).fit(rows)
    return torch.from_numpy(fitted.labels_.astype(np.int64)).to(x.device)
