"""Processors with tokenizers of their own, trained in memory, and pictures for them."""

import numpy as np
import tokenizers as tk
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

TEXTS = [
    "USER: What colour is the cat's tail? ASSISTANT: grey",
    "SYSTEM: be brief USER: How many cars, and where? A. one B. two ASSISTANT: B",
    "is the red car left of the house ?",
]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}SYSTEM: {{ m.content[0].text }} {% else %}"
    "USER: {% for part in m.content %}{% if part.type == 'image' %}<image>\n{% else %}"
    "{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
SPECIAL = ["<pad>", "<bos>", "<unk>", "<image>"]


def byte_level():
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tk.decoders.ByteLevel()
    trainer = tk.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return tokenizer


def metaspace():
    tokenizer = tk.Tokenizer(tk.models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tk.pre_tokenizers.Metaspace()
    tokenizer.decoder = tk.decoders.Sequence(
        [tk.decoders.ByteFallback(), tk.decoders.Metaspace(), tk.decoders.Fuse()]
    )
    trainer = tk.trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)],
        initial_alphabet=sorted({*"".join(TEXTS)} - {" "}),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return tokenizer


def processor_of(make, side="left", template=TEMPLATE):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make(),
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side=side,
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template,
    )


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def squeezed(text):
    return "".join(text.split())
