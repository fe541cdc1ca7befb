"""VINC (variance, invariance, negative covariance): the unsupervised probe of EleutherAI's elk library, in closed form.

The direction in which the two sides of a contrast pair move against each other (negative covariance) while rewordings
of one question do not move (invariance): the top eigenvector of

    -P ((1 - w_neg) Cov_intra + w_neg XCov) P^T

(https://github.com/EleutherAI/elk, class EigenFitter, at its default weight of 0 for the variance between transcripts).
Here the rewordings are the triggers after one transcript. P removes the direction that separates the two sides by the
mere word of the flag: LEACE, arXiv 2306.03819.
"""

from collections.abc import Sequence

import torch
from scipy.linalg import eigh
from torch import Tensor

from honest_persona.probes.moments import PairMoments
from honest_persona.probes.probe import Readout

_NONE = 1e-12
"""Below this share of the largest variance there is none: the square of 1e-6, the bound on sizes."""


def fit_vinc(pairs: Tensor, fail: Tensor, transcripts: Sequence[str], neg_weight: float = 0.5) -> Readout:
    """Direction without labels; the sign by `fail`. The margin is not yet log odds: `selection.fit_probe` scales it.

    Args:
        pairs: (n, 2, d), PASS side and FAIL side.
        fail: (n,) bool; decides the sign, and nothing else.
        transcripts: n names; pairs with one name are triggers after one transcript.
        neg_weight: w_neg, from 0 to 1.
    """
    x = pairs.double()
    mean = x.mean(0)  # (2, d): subtracting it also removes the difference between the sides that P erases
    p = eraser(x)
    # a direction without variance, such as the erased one, has value 0, and would win where all others are negative
    values = (x - mean).flatten(0, 1) @ p.T
    _, sizes, rows = torch.linalg.svd(values, full_matrices=False)
    basis = rows[sizes > 1e-6 * sizes[0]]  # (r, d)
    matrix = basis @ p @ vinc_matrix(x, transcripts, neg_weight) @ p.T @ basis.T
    direction = torch.linalg.eigh(matrix).eigenvectors[:, -1] @ basis
    readout = Readout(
        "vinc",
        (p.T @ direction).float(),
        pairs.new_zeros((), dtype=torch.float32),
        mean.float(),
        torch.ones_like(pairs[0]),
    )
    return readout.signed(pairs, fail)


def fit_vinc_moments(moments: PairMoments, neg_weights: Sequence[float]) -> list[Readout]:
    """`fit_vinc` from sufficient statistics, one readout for each w_neg. Its sign is not decided yet."""
    delta = moments.mean[1] - moments.mean[0]
    spread = moments.within / (2 * moments.n)
    p = _eraser_of(delta, spread + torch.outer(delta, delta) / 4)
    sizes, vectors = torch.linalg.eigh(p @ spread @ p.T)
    basis = vectors[:, sizes > _NONE * sizes[-1]].T  # (r, d)
    intra = moments.around / (2 * moments.m)
    cross = (moments.cross + moments.cross.T) / (2 * moments.m)
    intra, cross = (basis @ p @ matrix @ p.T @ basis.T for matrix in (intra, cross))
    readouts = []
    for neg_weight in neg_weights:
        matrix, last = -(1 - neg_weight) * intra - neg_weight * cross, len(basis) - 1
        top = eigh(matrix.numpy(), subset_by_index=[last, last])[1][:, 0]
        weight = (p.T @ (torch.from_numpy(top) @ basis)).float()
        mean = moments.mean.float()
        readouts.append(Readout("vinc", weight, weight.new_zeros(()), mean, torch.ones_like(mean)))
    return readouts


def vinc_matrix(pairs: Tensor, transcripts: Sequence[str], neg_weight: float) -> Tensor:
    """(d, d): -(1 - w_neg) Cov_intra - w_neg XCov.

    Over the centroids of m transcripts: XCov is the symmetric part of the covariance between the two sides. Cov_intra
    is the mean over transcripts and sides of the covariance of a transcript's states around their centroid. Both divide
    by the count.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(transcripts))}
    index = torch.tensor([names[name] for name in transcripts], device=pairs.device)
    m, d = len(names), pairs.shape[-1]
    counts = torch.bincount(index, minlength=m).to(pairs.dtype)
    centroids = pairs.new_zeros(m, 2, d).index_add_(0, index, pairs) / counts[:, None, None]
    centred = centroids - centroids.mean(0)
    passed, failed = centred[:, 0], centred[:, 1]  # (m, d)
    cross = (passed.T @ failed + failed.T @ passed) / (2 * m)
    around = (pairs - centroids[index]) / counts[index, None, None].sqrt()  # each transcript weighs the same
    around = around.reshape(-1, d)
    intra = around.T @ around / (2 * m)
    return -(1 - neg_weight) * intra - neg_weight * cross


def _eraser_of(delta: Tensor, covariance: Tensor) -> Tensor:
    """`eraser` from the difference of the means and the covariance of all states."""
    eye = torch.eye(len(delta), dtype=delta.dtype)
    if not delta.any():
        return eye
    variances, vectors = torch.linalg.eigh(covariance)
    varied = variances > _NONE * variances[-1]
    rows = vectors[:, varied].T
    whitened = (rows @ delta / variances[varied]) @ rows
    return eye - torch.outer(delta, whitened) / (delta @ whitened)


def eraser(pairs: Tensor) -> Tensor:
    """P (d, d), the least change of states after which no linear reader can tell the two sides apart.

    LEACE for two classes: I - delta (S^+ delta)^T / (delta^T S^+ delta), with delta the difference of the sides' means
    and S the covariance of all states.
    """
    delta = pairs[:, 1].mean(0) - pairs[:, 0].mean(0)
    eye = torch.eye(len(delta), dtype=pairs.dtype, device=pairs.device)
    if not delta.any():
        return eye
    states = pairs.flatten(0, 1)
    _, sizes, rows = torch.linalg.svd(states - states.mean(0), full_matrices=False)
    varied = sizes > 1e-6 * sizes[0]
    rows, variances = rows[varied], sizes[varied] ** 2 / len(states)
    whitened = (rows @ delta / variances) @ rows  # S^+ delta
    return eye - torch.outer(delta, whitened) / (delta @ whitened)
