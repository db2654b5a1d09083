"""Logit lens: final norm and unembedding, applied to an intermediate residual stream."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from pid_lens.model import Anatomy


@dataclass(frozen=True)
class LogitLens:
    """Logit lens: the final norm and the unembedding, applied to a layer's residual stream.

    It reads what the model would answer if it stopped there.

    ::

        log p_l(option) = W[option] norm(h_l) - logsumexp_v W[v] norm(h_l)

    At the last layer this is the model's own answer. At an earlier layer it is the answer if all
    later layers added nothing; the residual stream may carry information that it does not decode.

    Source:
        interpreting GPT: the logit lens (nostalgebraist, 2020),
        https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pid_lens import Anatomy
        >>> anatomy = Anatomy(model=nn.Identity(), decoder=nn.Identity(), layers=[],
        ...                   norm=nn.Identity(), unembed=nn.Linear(2, 3, bias=False))
        >>> _ = nn.init.eye_(anatomy.unembed.weight)
        >>> state, options = torch.tensor([[5., 3.]]), torch.tensor([[1, 0]])
        >>> LogitLens()(state, options, anatomy, layer=0).detach().exp()  # softmax of 5, 3, 0
        tensor([[0.1185, 0.8756]])
    """

    def __call__(
        self,
        state: Float[Tensor, "n width"],
        options: Int[Tensor, "n answers"],
        anatomy: Anatomy,
        layer: int,
    ) -> Float[Tensor, "n answers"]:
        """Compute full-vocabulary log-probabilities of the options, natural log, float32.

        Args:
            state: the residual stream after a layer.
            options: token id of each option, -1 where a sample has fewer: there they are -inf.
            anatomy: the model's modules.
            layer: number of the layer; the logit lens is the same for all.
        """
        # log softmax over the whole vocabulary, at the options' ids
        logits = anatomy.logits(state)
        options = options.to(logits.device)
        chosen = logits.gather(-1, options.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
        return chosen.masked_fill(options < 0, -math.inf)
