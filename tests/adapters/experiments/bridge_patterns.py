"""How much does the last position look at the image, layer by layer and head by head?"""

image = ids[0] == model.original_model.config.image_token_id

with torch.no_grad():
    _, cache = model.run_with_cache(ids, names_filter=lambda n: "hook_pattern" in n, **vision)

looks = [cache["pattern", layer][:, :, -1, image] for layer in range(model.cfg.n_layers)]
result = torch.stack([look.sum(-1).mean(0) for look in looks])
