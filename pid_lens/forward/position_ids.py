"""Position ids of a prompt's tokens, counted without those that are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from pid_lens.inputs import Samples
    from pid_lens.interventions import Variation


def renumber_positions(
    repeated: dict[str, Any],
    arguments: Mapping[str, Any],
    samples: Samples,
    variations: Sequence[Variation],
) -> dict[str, Any]:
    """Renumber the position ids in each variation's rows, as if removed tokens were not there.

    Args:
        repeated: the decoder's arguments with [variations * n] rows.
        arguments: the same with n rows.
        samples: the n samples.
        variations: whose `Remove` interventions take tokens out of the prompt, or not.

    Returns:
        The repeated arguments, with ``position_ids`` of their own if a token is removed.
    """
    removed = [variation.removed(samples) for variation in variations]
    if not any(bool(one.any()) for one in removed):
        return repeated
    # p'_t = p_t - (steps of the removed tokens before t), one row block per variation
    given = positions_of(arguments, samples)
    moved = [given - shift_of(given, one, samples)[..., :-1] for one in removed]
    changed = {**repeated, "position_ids": torch.cat(moved, -2)}
    if arguments.get("attention_mask") is None:
        # Without a mask, transformers takes position ids with jumps for several packed prompts
        n, tokens = removed[0].shape
        changed["attention_mask"] = given.new_ones(len(removed) * n, tokens)
    return changed


def positions_of(arguments: Mapping[str, Any], samples: Samples) -> Int[Tensor, "*axes n tokens"]:
    """Return the position ids that a decoder is given, or would count by itself."""
    n, tokens = samples.spans.shape
    given, mask = arguments.get("position_ids"), arguments.get("attention_mask")
    if given is not None:
        return given.expand(*given.shape[:-2], n, -1)
    device = next(iter(samples.spans.values())).device
    # Count attended tokens from 0; padding before the prompt stays at 0
    plain = isinstance(mask, Tensor) and mask.ndim == 2
    attended = mask if mask is not None and plain else torch.ones(n, tokens, device=device)
    return (attended.long().cumsum(-1) - 1).clamp_min(0)


def shift_of(
    positions: Int[Tensor, "*axes n tokens"], removed: Bool[Tensor, "n tokens"], samples: Samples
) -> Int[Tensor, "*axes n more"]:
    """Compute by how much each token's position id falls; last entry: that of later tokens.

    The token after a run of removed tokens takes the position at which the run began, on every
    axis. Tokens after the prompt (generated ones) are all lowered by the last entry.

    Raises:
        ValueError: part of an image is removed, and its positions are those of a grid (M-RoPE).
    """
    removed = removed.to(positions.device)
    if positions.ndim > 2:
        _require_whole_images(removed, samples.spans.get("image"))
    # Position of the first generated token: one more than the largest of all axes
    behind = positions.amax(-1, keepdim=True).amax(tuple(range(positions.ndim - 2)), True) + 1
    behind = behind.expand(*positions.shape[:-1], 1)
    # Shift of token t: sum over removed tokens s < t of their step p_{s+1} - p_s
    steps = torch.cat([positions, behind], -1).diff(dim=-1)
    return torch.nn.functional.pad((steps * removed).cumsum(-1), (1, 0))


def _require_whole_images(removed: Tensor, image: Tensor | None) -> None:
    if image is None:
        return
    image = image.to(removed.device)
    within = image[:, 1:] & image[:, :-1]
    if bool((within & (removed[:, 1:] != removed[:, :-1])).any()):
        raise ValueError(
            "this model's image tokens have positions on a grid, so a part of an image cannot be "
            "taken out of the prompt: remove whole images, or ablate the part with Noise or Zero, "
            "or mask it with Knockout"
        )
