"""What does a direction in layer 2 do to the answer?"""

direction = torch.linspace(-1, 1, model.config.text_config.hidden_size)

with torch.no_grad(), model.trace(**inputs):
    plain = model.output.logits[:, -1].save()

with torch.no_grad(), model.trace(**inputs):
    layer = model.model.language_model.layers[2]
    layer.output = layer.output + 4 * direction
    steered = model.output.logits[:, -1].save()

result = steered.softmax(-1) - plain.softmax(-1)
