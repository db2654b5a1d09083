"""Preconditions of hooks: the model is not compiled, its weights are loaded, no checkpointing."""

from __future__ import annotations

from torch import nn


def require_uncompiled(model: nn.Module) -> None:
    """Require that no module is compiled: compiled code skips hooks that are registered later.

    Raises:
        ValueError: the model, or a part of it, is compiled.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> require_uncompiled(model)
        >>> model[0]._compiled_call_impl = object()  # as compile() sets it
        >>> require_uncompiled(model)
        Traceback (most recent call last):
        ValueError: 0 is compiled (torch.compile), and compiled code skips hooks ...
    """
    for name, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise ValueError(
                f"{name or 'the model'} is compiled (torch.compile), and compiled code "
                "skips hooks that are registered later: hand over the model as it was before it "
                "was compiled"
            )


def require_loaded(model: nn.Module) -> None:
    """Require that no weight is on the meta device: loading it later replaces hooked modules.

    Raises:
        ValueError: a weight is on the meta device, and accelerate has not offloaded it.

    Example:
        >>> from torch import nn
        >>> require_loaded(nn.Linear(2, 2))
        >>> require_loaded(nn.Linear(2, 2, device="meta"))
        Traceback (most recent call last):
        ValueError: weight is on the meta device: the model's weights are not loaded yet. ...
    """
    if any("_hf_hook" in module.__dict__ for module in model.modules()):
        return
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise ValueError(
                f"{name} is on the meta device: the model's weights are not loaded yet. Load them "
                "first (nnsight: TransformersModel(..., dispatch=True)), and make the lens then"
            )


def require_no_checkpointing(model: nn.Module) -> None:
    """Require no gradient checkpointing: layers rerun in the backward pass lose the knockout.

    Raises:
        ValueError: gradient checkpointing is on in a model in training mode.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(2, 2)
        >>> layer.gradient_checkpointing = True
        >>> require_no_checkpointing(layer.eval())
        >>> require_no_checkpointing(layer.train())
        Traceback (most recent call last):
        ValueError: with gradient checkpointing layers run again in the backward pass, ...
    """
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if again and model.training:
        raise ValueError(
            "with gradient checkpointing layers run again in the backward pass, when the knockout "
            "is over: turn gradient checkpointing off, or call model.eval()"
        )
