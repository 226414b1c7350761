"""Denoising without training: non-local means, its weights, and an estimate of the noise."""

from torch_nonlocal.denoising.means import non_local_means, non_local_means_weights
from torch_nonlocal.denoising.noise import estimate_noise

__all__ = ["estimate_noise", "non_local_means", "non_local_means_weights"]
