"""The Inception score: how sure a classifier is of each sample, and how varied its answers are.

    IS = exp( mean over samples of KL(p(y | x) || p(y)) ),    p(y) = mean over the samples of p(y | x)

It is between 1 and the number of classes, looks at no true sample, and rises with the number of generated ones.

Source: Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, https://arxiv.org/abs/1606.03498,
Section 4. The source takes the mean over ten parts of the samples; here it is that of all of them.

The mean of KL is the entropy of p(y) less the mean entropy of p(y | x): two sums over the samples, which `Answers`
keeps, are all that it needs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prescore.errors import PrescoreError


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier said about the samples seen so far; those of parts add up.

    Attributes:
        count: of the samples.
        probabilities: sum over the samples of p(y | x), float64, (classes,).
        information: sum over the samples of sum_y p(y | x) ln p(y | x), float64, 0-d.
    """

    count: int
    probabilities: Tensor
    information: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Answers":
        """Of one batch of logits; arguments and errors as of `inception_score`."""
        if logits.ndim != 2 or 0 in logits.shape:
            raise PrescoreError(f"logits: shape {tuple(logits.shape)}; (n, classes) is needed")
        if not logits.isfinite().all():
            raise PrescoreError(f"logits: {int((~logits.isfinite()).sum())} values are not finite")
        p = logits.detach().double().softmax(1)
        return cls(len(p), p.sum(0), torch.xlogy(p, p).sum())

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(
            self.count + other.count, self.probabilities + other.probabilities, self.information + other.information
        )

    @property
    def score(self) -> float:
        """The Inception score."""
        p = self.probabilities / self.count
        return (self.information / self.count - torch.xlogy(p, p).sum()).exp().item()


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
    return Answers.of(logits).score
