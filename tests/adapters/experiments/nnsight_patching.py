"""How much of the answer hangs on one position of layer 1? A patch from row 0 to row 1."""

with torch.no_grad(), model.trace(**inputs):
    clean = model.output.logits[:, -1].save()

with torch.no_grad(), model.trace(**inputs):
    h = model.model.language_model.layers[1].output
    h[1, -1] = h[0, -1]
    patched = model.output.logits[:, -1].save()

before, after = clean.log_softmax(-1), patched.log_softmax(-1)
result = (before.exp() * (before - after)).sum(-1)  # Kullback-Leibler divergence, nats
