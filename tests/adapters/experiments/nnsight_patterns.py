"""How much does the last position look at the image, layer by layer and head by head?"""

image = inputs["input_ids"][0] == model.config.image_token_id

with torch.no_grad(), model.trace(**inputs):
    looks = []
    for layer in model.model.language_model.layers:
        weights = layer.self_attn.output[1]  # n, heads, queries, keys
        looks.append(weights[:, :, -1, image].sum(-1).mean(0))
    result = torch.stack(looks).save()
