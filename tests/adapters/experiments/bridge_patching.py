"""How much of the answer hangs on one position of layer 1? A patch from row 0 to row 1."""


def patch(resid_post, hook):
    resid_post[1, -1] = resid_post[0, -1]
    return resid_post


with torch.no_grad():
    clean = model(ids, **vision)[:, -1]

with torch.no_grad():
    hooks = [("blocks.1.hook_resid_post", patch)]
    patched = model.run_with_hooks(ids, fwd_hooks=hooks, **vision)[:, -1]

before, after = clean.log_softmax(-1), patched.log_softmax(-1)
result = (before.exp() * (before - after)).sum(-1)  # Kullback-Leibler divergence, nats
