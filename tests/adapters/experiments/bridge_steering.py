"""What does a direction in layer 2 do to the answer?"""

direction = torch.linspace(-1, 1, model.cfg.d_model)

with torch.no_grad():
    plain = model(ids, **vision)[:, -1]

with torch.no_grad():
    hooks = [("blocks.2.hook_resid_post", lambda resid, hook: resid + 4 * direction)]
    steered = model.run_with_hooks(ids, fwd_hooks=hooks, **vision)[:, -1]

result = steered.softmax(-1) - plain.softmax(-1)
