"""Log-probs and entropies of a language model's head, without its (n, vocab_size) log-softmax in memory.

A policy update needs two numbers for each token: the log-prob of the token taken and the entropy of the distribution
that it was taken from. The plain way, `log_softmax(hidden @ weight.T)`, keeps five (n, vocab_size) arrays alive until
the backward pass, which for a vocabulary of 50,000 is more memory than the model. Here the rows go through in chunks,
and the backward pass computes each chunk's logits again: one more matrix product, for a peak that no longer depends on n.
Where everything fits into one chunk there is nothing to save, so its softmax is kept and nothing is computed twice.

How this differs from the fused cross-entropies that inspired it (Liger Kernel, arXiv:2410.10989; Cut Cross-Entropy,
arXiv:2411.09009): it gives a value for each token instead of one loss, so that ratios, clipping and masks stay ordinary
PyTorch; it gives the entropy with its gradient; and it is plain PyTorch, for any device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Elements of a chunk of logits, where the caller does not say: measured, see docs of `linear_log_probs`.
_CHUNK_ELEMENTS_CPU = 2**22
_CHUNK_ELEMENTS = 2**26
