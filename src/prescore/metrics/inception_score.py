"""The Inception score: how sure a classifier is of each sample, and how varied its answers are.

    IS = exp( mean over samples of KL(p(y | x) || p(y)) ),    p(y) = mean over the samples of p(y | x)

It is between 1 and the number of classes, looks at no true sample, and rises with the number of generated ones.

Source: Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, https://arxiv.org/abs/1606.03498,
Section 4. The source takes the mean over ten parts of the samples; here it is that of all of them.
"""

import torch
from torch import Tensor

from prescore.errors import PrescoreError


def inception_score(logits: Tensor) -> float:
    """exp of the mutual information of sample and class.

    Args:
        logits: of a classifier, (n, classes).

    Raises:
        PrescoreError: they are not a matrix, or a value is not finite.

    >>> round(inception_score(torch.eye(4) * 100), 6)
    4.0
    >>> inception_score(torch.zeros(5, 4))
    1.0
    """
    if logits.ndim != 2 or 0 in logits.shape:
        raise PrescoreError(f"logits: shape {tuple(logits.shape)}; (n, classes) is needed")
    if not logits.isfinite().all():
        raise PrescoreError(f"logits: {int((~logits.isfinite()).sum())} values are not finite")
    log_p = logits.detach().double().log_softmax(1)
    log_marginal = log_p.logsumexp(0) - torch.tensor(len(logits), dtype=torch.float64).log()
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp().item()
