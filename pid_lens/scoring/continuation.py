"""Continuation of prompts: many continuations of the same prompts, which share their KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, repeat

from pid_lens.inputs import Batch, attended_tokens
from pid_lens.model import hooked, named_arguments

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn

    from pid_lens.model import Anatomy


def pad_left(batch: Batch) -> Batch:
    """Move the padding of each prompt to the left, so that tokens can follow it.

    Raises:
        ValueError: the batch has position ids or a 4-D attention mask, which cannot be moved.
    """
    mask = batch.inputs.get("attention_mask")
    if batch.inputs.get("position_ids") is not None or (mask is not None and mask.ndim != 2):
        raise ValueError(
            "options continue their prompts, so the model must find positions and masks by "
            "itself: leave position_ids out, and hand over an attention_mask [n, tokens]"
        )
    # Cyclic shift of each row by the number of padding tokens after its last attended one
    attended = attended_tokens(batch.inputs)
    n, tokens = attended.shape
    steps = torch.arange(tokens, device=attended.device)
    shift = tokens - 1 - (attended * steps).amax(-1, keepdim=True)
    if not bool(shift.any()):
        return batch
    source = (steps - shift) % tokens

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape[:2] != (n, tokens):
            return value
        rows = torch.arange(n, device=value.device)[:, None]
        return value[rows, source.to(value.device)]

    said = batch.spans
    spans = None if said is None else {k: move(torch.as_tensor(m)) for k, m in said.items()}
    return replace(batch, inputs={k: move(v) for k, v in batch.inputs.items()}, spans=spans)


@dataclass(frozen=True, eq=False)
class PromptRun:
    """Forward pass of prompts, and the log-probabilities of their continuations.

    Continuations are token ids [n, k, steps] with a mask of those that are present. Of the
    model's logits only what these tokens need is kept.

    Attributes:
        anatomy: parts of the model.
        inputs: inputs of the prompts, padded on the left.
        log_probs: log-probabilities of the next token after each prompt.
        cache: KV cache; None where the model gives none that can be copied row by row.
        positions: position id of the last token, as the decoder received it; None where the
            decoder counts by itself.
    """

    anatomy: Anatomy
    inputs: Mapping[str, Any]
    log_probs: Float[Tensor, "n vocabulary"]
    cache: Any
    positions: Int[Tensor, "... one"] | None

    @classmethod
    def run(cls, anatomy: Anatomy, inputs: Mapping[str, Any]) -> PromptRun:
        """Run the forward pass of the prompts once.

        Raises:
            ValueError: logits that are not a number.
        """
        received: list[Tensor | None] = []

        def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
            received.append(named_arguments(module, args, kwargs).get("position_ids"))

        with hooked(before=[(anatomy.decoder, keep)]):
            output = anatomy.model(**{**inputs, "use_cache": True})
        cache = getattr(output, "past_key_values", None)
        log_probs = output.logits[:, -1].float().log_softmax(-1).to(anatomy.device)
        require_finite_answers(log_probs.isnan().any(-1))
        return cls(
            anatomy,
            inputs,
            log_probs,
            cache if _can_repeat(cache) else None,
            None if (at := received[-1]) is None else at[..., -1:],
        )

    def score_first(self, tokens: Int[Tensor, "n k steps"]) -> Float[Tensor, "n k one"]:
        """Look up the log-probability of each first token in the prompts' own pass."""
        return self.log_probs.gather(1, tokens[..., 0])[..., None]

    def score_on_cache(
        self, tokens: Int[Tensor, "n k steps"], present: Bool[Tensor, "n k steps"]
    ) -> Float[Tensor, "n k later"]:
        """Compute the log-probability of each token but the first, on the KV cache.

        Given all tokens before it, in one call on copies of the prompts' keys and values.
        """
        fed, wanted, present = tokens[..., :-1], tokens[..., 1:], present[..., :-1]
        if not wanted.numel():
            return wanted.float()
        # The k continuations of a prompt are k batch rows, each with a copy of its KV cache
        k, steps = fed.shape[1:]
        cache = deepcopy(self.cache)
        cache.batch_repeat_interleave(k)
        before = repeat(attended_tokens(self.inputs), "n t -> (n k) t", k=k)
        mask = torch.cat([before, rearrange(present, "n k s -> (n k) s")], 1).long()
        inputs = {
            "input_ids": rearrange(fed, "n k s -> (n k) s"),
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
            **{
                name: value.repeat_interleave(k, 0)
                for name, value in self._continue_inputs(steps).items()
                if value.ndim > 2  # cross-attention masks, not the token types of prompts
            },
        }
        with hooked(before=[(self.anatomy.decoder, self._position_hook(k, steps))]):
            logits = self.anatomy.model(**inputs).logits
        found = chosen_log_probs(logits, rearrange(wanted, "n k s -> (n k) s"))
        return rearrange(found, "(n k) s -> n k s", k=k)

    def _position_hook(self, k: int, steps: int) -> Any:
        """Make a pre-hook that gives the decoder the position ids of the continuation."""

        def place(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            if self.positions is None:
                return None
            last = self.positions
            if last.ndim > 1 and last.shape[-2] == len(self.inputs["input_ids"]):
                last = last.repeat_interleave(k, -2)
            ahead = torch.arange(1, steps + 1, device=last.device)
            return (), {**named_arguments(module, args, kwargs), "position_ids": last + ahead}

        return place

    def score_with_prompt(
        self, tokens: Int[Tensor, "n k steps"], present: Bool[Tensor, "n k steps"]
    ) -> Float[Tensor, "n k later"]:
        """Compute the log-probability of each token but the first, without a KV cache.

        Given all tokens before it; the whole prompt runs again with every continuation.
        """
        if tokens.shape[-1] == 1:
            return tokens[..., 1:].float()
        found = [
            chosen_log_probs(self.compute_logits(*one), one[0])
            for one in zip(tokens.unbind(1), present.unbind(1), strict=True)
        ]
        return torch.stack(found, 1)[..., 1:]

    def compute_logits(
        self, tokens: Int[Tensor, "n steps"], present: Bool[Tensor, "n steps"]
    ) -> Float[Tensor, "n steps vocabulary"]:
        """Compute the logits before each token of one continuation, run with its prompt."""
        inputs = self._extend_inputs(tokens[:, :-1], present[:, :-1])
        logits: Tensor = self.anatomy.model(**inputs, use_cache=False).logits
        return logits[:, -tokens.shape[1] :]

    def _extend_inputs(
        self, tokens: Int[Tensor, "n steps"], present: Bool[Tensor, "n steps"]
    ) -> dict[str, Any]:
        """Append tokens to the inputs, of the same token type as the prompt's last token."""
        ids = self.inputs["input_ids"]
        attended = attended_tokens(self.inputs)
        ahead = self._continue_inputs(tokens.shape[1])
        return {
            **self.inputs,
            **{name: torch.cat([self.inputs[name], value], 1) for name, value in ahead.items()},
            "input_ids": torch.cat([ids, tokens], 1),
            "attention_mask": torch.cat([attended, present], 1).long(),
        }

    def _continue_inputs(self, steps: int) -> dict[str, Tensor]:
        """Repeat the other per-token inputs of the prompt's last token for the tokens after it."""
        shape = self.inputs["input_ids"].shape
        return {
            name: repeat(value[:, -1], "n ... -> n s ...", s=steps)
            for name, value in self.inputs.items()
            if isinstance(value, torch.Tensor) and value.shape[:2] == shape
        }


def require_finite_answers(broken: Bool[Tensor, " n"]) -> None:
    """Require answers that are finite.

    Raises:
        ValueError: some samples are ``broken``.
    """
    if bool(broken.any()):
        raise ValueError(
            f"the model's answer is not finite in samples {broken.nonzero().flatten().tolist()} "
            "of this batch: is the model in order, and its precision wide enough?"
        )


def chosen_log_probs(
    logits: Float[Tensor, "n steps vocabulary"], tokens: Int[Tensor, "n steps"]
) -> Float[Tensor, "n steps"]:
    """Compute the log-probability of one token per step, in float32."""
    wide = logits.float()
    found = wide.gather(-1, tokens[..., None].to(wide.device))[..., 0] - wide.logsumexp(-1)
    return found.to(tokens.device)


def _can_repeat(cache: Any) -> bool:
    """Return whether a cache can be repeated row by row: those of recurrent layers cannot."""
    layers: Any = getattr(cache, "layers", [])
    return bool(layers) and all(hasattr(one, "batch_repeat_interleave") for one in layers)
