"""A training forward pass in parts: embeddings, noise ablation, attention mask, logits."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from pid_lens.demo.prompts import LANGUAGE, VISION, Prompts


def features(
    model: LlavaForConditionalGeneration, pixels: Float[Tensor, "n 3 high wide"]
) -> Float[Tensor, "n patches vision"]:
    """Compute the vision tower's image features of each patch, without its class token."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[-1][:, 1:]


def embed(
    model: LlavaForConditionalGeneration,
    prompts: Prompts,
    patches: Float[Tensor, "n patches vision"],
) -> Float[Tensor, "n tokens width"]:
    """Embed the decoder's input: words, and projected image features at the image tokens."""
    words = model.get_input_embeddings()(prompts.tokens)
    projected = model.model.multi_modal_projector(patches)
    return words.masked_scatter(prompts.image[..., None], projected)


def question_moments(
    table: Prompts, weight: Float[Tensor, "words width"], tasks: int
) -> tuple[Float[Tensor, "tasks width"], Float[Tensor, "tasks width"]]:
    """Compute mean and standard deviation, by dimension, of each task's question embeddings.

    The table's rows are sorted by task; within a task, each digit and coin counts the same.
    """
    # Count each word in each task's questions, and normalise to p(word | task)
    counts = torch.zeros(tasks, len(weight))
    task = torch.arange(tasks).repeat_interleave(len(table) // tasks)
    task = task[:, None].expand_as(table.tokens)
    ones = table.question.to(weight.dtype)
    counts.index_put_((task, table.tokens), ones, accumulate=True)
    counts = counts / counts.sum(1, keepdim=True)
    # E[w] and sqrt(E[w^2] - E[w]^2) under p(word | task)
    mean = counts @ weight
    return mean, (counts @ weight.square() - mean.square()).clamp_min(0).sqrt()


def hide(
    embeds: Float[Tensor, "n tokens width"],
    prompts: Prompts,
    seen: Int[Tensor, " n"],
    question: tuple[Float[Tensor, "n width"], Float[Tensor, "n width"]],
    generator: torch.Generator,
) -> Float[Tensor, "n tokens width"]:
    """Ablate image or question with noise N(mean, diag deviation^2), as `seen` says.

    The image's moments are those of the batch's own image embeddings.

    Args:
        embeds: the decoder's input.
        prompts: the rows' tokens and spans.
        seen: `FULL` leaves a row, `VISION` ablates its question, `LANGUAGE` its image.
        question: mean and standard deviation of each row's task.
        generator: of the noise.
    """
    # Noise with the moments of each span: mean + eps * deviation, eps ~ N(0, I)
    patches = embeds[prompts.image].detach()
    noise = torch.randn(embeds.shape, generator=generator)
    image = patches.mean(0) + noise * patches.std(0)
    words = question[0][:, None] + noise * question[1][:, None]
    # Replace the embeddings of the ablated span, row by row
    no_image = prompts.image & (seen == LANGUAGE)[:, None]
    no_question = prompts.question & (seen == VISION)[:, None]
    embeds = torch.where(no_image[..., None], image, embeds)
    return torch.where(no_question[..., None], words, embeds)


def attention(
    prompts: Prompts, masked: Bool[Tensor, " n"], cut: Bool[Tensor, " n"]
) -> Float[Tensor, "n 1 tokens tokens"]:
    """Compute the additive causal mask, with attention to the image masked in all layers.

    Args:
        prompts: padded on the left.
        masked: rows where the answer position does not attend to the image. What comes after the
            question is the template's `ASSISTANT:`, where the answer is read: the image can
            reach it through the question's tokens alone.
        cut: rows where the question does not attend to the image.
    """
    # Causal mask without padding keys, [n, query, key]
    tokens = prompts.tokens.shape[1]
    open_ = torch.ones(tokens, tokens, dtype=torch.bool).tril() & ~prompts.padding[:, None]
    # Attention knockout: Image->answer in the masked rows, Image->Question in the cut rows
    open_[:, -1] &= ~(prompts.image & masked[:, None])
    open_ &= ~(prompts.question[:, :, None] & prompts.image[:, None] & cut[:, None, None])
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(open_.shape).masked_fill(~open_, lowest)[:, None]


def answer_logits(
    model: LlavaForConditionalGeneration,
    embeds: Float[Tensor, "n tokens width"],
    mask: Float[Tensor, "n 1 tokens tokens"],
) -> Float[Tensor, "n words"]:
    """Compute the logits of the next word after each prompt."""
    out = model.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    return model.lm_head(out.last_hidden_state[:, -1])
