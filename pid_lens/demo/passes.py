"""A training pass in its parts: embeddings, noise in place of a modality, closed attention."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from pid_lens.demo.prompts import LANGUAGE, VISION, Prompts


def features(
    model: LlavaForConditionalGeneration, pixels: Float[Tensor, "n 3 high wide"]
) -> Float[Tensor, "n patches vision"]:
    """What the vision tower says of each patch, its class token left out."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[-1][:, 1:]


def embed(
    model: LlavaForConditionalGeneration,
    prompts: Prompts,
    patches: Float[Tensor, "n patches vision"],
) -> Float[Tensor, "n tokens width"]:
    """The decoder's input: the words' embeddings and the projected patches in their places."""
    words = model.get_input_embeddings()(prompts.tokens)
    projected = model.model.multi_modal_projector(patches)
    return words.masked_scatter(prompts.image[..., None], projected)


def question_moments(
    table: Prompts, weight: Float[Tensor, "words width"], tasks: int
) -> tuple[Float[Tensor, "tasks width"], Float[Tensor, "tasks width"]]:
    """Mean and deviation, for each dimension, of the embeddings of each task's question words.

    The table's rows are grouped by task; within one, each digit and coin counts the same.
    """
    counts = torch.zeros(tasks, len(weight))
    task = torch.arange(tasks).repeat_interleave(len(table) // tasks)
    task = task[:, None].expand_as(table.tokens)
    ones = table.question.to(weight.dtype)
    counts.index_put_((task, table.tokens), ones, accumulate=True)
    counts = counts / counts.sum(1, keepdim=True)
    mean = counts @ weight
    return mean, (counts @ weight.square() - mean.square()).clamp_min(0).sqrt()


def hide(
    embeds: Float[Tensor, "n tokens width"],
    prompts: Prompts,
    seen: Int[Tensor, " n"],
    question: tuple[Float[Tensor, "n width"], Float[Tensor, "n width"]],
    generator: torch.Generator,
) -> Float[Tensor, "n tokens width"]:
    """Noise N(mean, diag deviation^2) over the image or the question, as `seen` says.

    The image's moments are those of the batch's own image embeddings.

    Args:
        embeds: the decoder's input.
        prompts: whose spans are hidden.
        seen: `FULL` leaves a row, `VISION` hides its question, `LANGUAGE` its image.
        question: mean and deviation of each row's task.
        generator: the source of chance.
    """
    patches = embeds[prompts.image].detach()
    noise = torch.randn(embeds.shape, generator=generator)
    image = patches.mean(0) + noise * patches.std(0)
    words = question[0][:, None] + noise * question[1][:, None]
    no_image = prompts.image & (seen == LANGUAGE)[:, None]
    no_question = prompts.question & (seen == VISION)[:, None]
    embeds = torch.where(no_image[..., None], image, embeds)
    return torch.where(no_question[..., None], words, embeds)


def attention(
    prompts: Prompts, closed: Bool[Tensor, " n"], cut: Bool[Tensor, " n"]
) -> Float[Tensor, "n 1 tokens tokens"]:
    """The additive mask of causal attention, with ways of the image closed in all layers.

    Args:
        prompts: padded on the left.
        closed: rows where the answer cannot see the image. What comes after the question is the
            template's `ASSISTANT:`, where the answer is read: the image can reach it through
            the question's tokens alone.
        cut: rows where the question cannot see the image.
    """
    tokens = prompts.tokens.shape[1]
    open_ = torch.ones(tokens, tokens, dtype=torch.bool).tril() & ~prompts.padding[:, None]
    open_[:, -1] &= ~(prompts.image & closed[:, None])
    open_ &= ~(prompts.question[:, :, None] & prompts.image[:, None] & cut[:, None, None])
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(open_.shape).masked_fill(~open_, lowest)[:, None]


def answer_logits(
    model: LlavaForConditionalGeneration,
    embeds: Float[Tensor, "n tokens width"],
    mask: Float[Tensor, "n 1 tokens tokens"],
) -> Float[Tensor, "n words"]:
    """The logits of the next word after each prompt."""
    out = model.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    return model.lm_head(out.last_hidden_state[:, -1])
