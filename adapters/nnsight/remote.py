"""Interventions and logit lens on a remote server: functions of torch alone, in forward order.

`carry_out` is called in the block of a trace with ``remote=True`` and does there what a
`pid_lens.adapters.nnsight.plan.Plan` has worked out locally. Its source travels with the block,
so that the server needs no pid_lens: ``nnsight.register("pid_lens")`` once, before the trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pid_lens.model import causal_mask, mask_pairs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def carry_out(model: Any, plan: dict[str, Any]) -> Float[Tensor, "layers n answers"]:
    """Apply a plan's ablations and knockouts, and return the answer at every layer of it.

    Modules are visited in the order of the forward pass, so anything else that the block reads
    comes before or after the call.

    Args:
        model: the nnsight model that is traced.
        plan: `Plan.sent`.

    Returns:
        Full-vocabulary log-probabilities of the options, natural log, float32; -inf where a
        sample has fewer options.

    Raises:
        ValueError: an attention mask that cannot mask pairs of tokens.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> from pid_lens.adapters.nnsight.plan import plan
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=32)
        >>> plain, blind = plan(model, batch), plan(model, batch, pid_lens.Zero("image"))
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     answers = carry_out(model, plain.sent).save()
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     ablated = carry_out(model, blind.sent).save()
        >>> plain.reads(answers).accuracy(), blind.reads(ablated).accuracy() < 0.8
        (1.0, True)
    """
    if plan["at"] is not None:
        decoder = model.get(plan["decoder"])
        args, kwargs = decoder.inputs
        replaced = replace_vectors(kwargs["inputs_embeds"], plan["at"], plan["vectors"])
        decoder.inputs = (args, {**kwargs, "inputs_embeds": replaced})
    answers = []
    for layer, names in enumerate(plan["layers"]):
        blocked = plan["closed"].get(layer)
        if blocked is not None:
            attention = model.get(names["attention"])
            attention.inputs = close_inputs(attention.inputs, blocked, names["causal"])
        if names["read"]:
            answers.append(answer(model, model.get(names["layer"]).output, plan))
    return torch.stack([one.to(answers[0].device) for one in answers])


def entering(model: Any, plan: dict[str, Any]) -> Float[Tensor, "n tokens width"]:
    """Return the embeddings that enter the decoder, image features merged in, to calibrate on.

    Args:
        model: the nnsight model that is traced.
        plan: `Plan.sent`.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> from pid_lens.adapters.nnsight.plan import moments, plan
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     vectors = entering(model, plan(model, batch).sent).save()
        >>> moments(model, batch, vectors)
        Moments(image 64 tokens, question 20 tokens, model ..., at ...inputs_embeds)
    """
    vectors: Tensor = model.get(plan["decoder"]).inputs[1]["inputs_embeds"]
    return vectors


def replace_vectors(
    embeddings: Float[Tensor, "n tokens width"],
    at: Bool[Tensor, "n tokens"],
    vectors: Float[Tensor, "ablated width"],
) -> Float[Tensor, "n tokens width"]:
    """Replace the embeddings of some tokens, in a copy.

    Example:
        >>> at = torch.tensor([[True, False]])
        >>> replace_vectors(torch.zeros(1, 2, 3), at, torch.ones(1, 3))[0, :, 0]
        tensor([1., 0.])
    """
    edited = embeddings.clone()
    edited[at.to(edited.device)] = vectors.to(edited)
    return edited


def close_inputs(
    inputs: tuple[tuple, dict], blocked: Bool[Tensor, "n heads tokens tokens"], causal: bool
) -> tuple[tuple, dict]:
    """Mask (query, key) pairs in the inputs of an attention module, in a copy of its mask.

    Raises:
        ValueError: the attention mask cannot mask pairs of tokens.

    Example:
        >>> blocked = torch.tensor([[[[False, False], [True, False]]]])
        >>> _, kwargs = close_inputs(((torch.zeros(1, 2, 4),), {}), blocked, causal=True)
        >>> kwargs["attention_mask"].int().tolist()
        [[[[1, 0], [0, 1]]]]
    """
    args, kwargs = inputs
    states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    mask, tokens = kwargs.get("attention_mask"), states.shape[1]
    if mask is None:
        mask = causal_mask(0, tokens, tokens, causal).to(states.device)
    if mask.ndim != 4:
        raise ValueError(
            f"an attention mask of {mask.ndim} axes cannot mask pairs of tokens: the model must "
            "be loaded with attn_implementation='sdpa' or 'eager'"
        )
    mask = mask_pairs(mask, blocked[..., : mask.shape[-1]].to(mask.device))
    return args, {**kwargs, "attention_mask": mask}


def answer(model: Any, output: Any, plan: dict[str, Any]) -> Float[Tensor, "n answers"]:
    """Apply the logit lens at the answer position; return natural log-probabilities of options."""
    states = output[0] if isinstance(output, tuple) else output
    rows = torch.arange(len(states), device=states.device)
    norm, unembed = model.get(plan["norm"]), model.get(plan["unembed"])
    # Final norm and unembedding of the residual stream at the answer position
    normed = norm(states[rows, plan["positions"].to(states.device)])
    logits = plan["scale"] * unembed(normed.to(unembed.weight.dtype)).float()
    if plan["softcap"] is not None:
        # Soft cap: c tanh(z / c)
        logits = plan["softcap"] * (logits / plan["softcap"]).tanh()
    # Log-softmax over the whole vocabulary, at the options alone
    options = plan["options"].to(logits.device)
    chosen = logits.gather(-1, options.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
    return chosen.masked_fill(options < 0, -float("inf"))
