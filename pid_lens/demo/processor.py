"""The shipped processor: word-level tokenizer, image processor and chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

SIDE = 8  # pixels of an image's side
PATCH = 2  # pixels of a patch's side
IMAGE_TOKENS = (SIDE // PATCH) ** 2
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
ROLES = ("SYSTEM:", "USER:", "ASSISTANT:")
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    *SPECIAL,
    *ROLES,
    *DIGIT_WORDS,
    *("vision", "language", "redundant", "synergy", "caption"),
    *("A", "B", "yes", "no", "even", "odd", "truthfully", "opposite"),
    *("a", "an", "and", "answer", "digit", "image", "in", "is", "it", "not", "number", "of"),
    *("or", "picture", "question", "says", "shows", "that", "the", "this", "what", "which"),
    *(".", "?", ","),
)
CHAT_TEMPLATE = (
    "<bos>"
    "{%- for message in messages %}"
    "{{ ' ' + message['role'] | upper + ':' }}"
    "{%- if message['content'] is string %}{{ ' ' + message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{{ ' <image>' if part['type'] == 'image' else ' ' + part['text'] }}"
    "{%- endfor %}{%- endif %}"
    "{%- endfor %}"
    "{{ ' ASSISTANT:' if add_generation_prompt else '' }}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer; "?" is a word, with or without a space before it.

    Example:
        >>> tokenizer().tokenize("is it even?")
        ['is', 'it', 'even', '?']
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Sequence([WhitespaceSplit(), Split(Regex("[.,?]"), "isolated")])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=96,
    )


def image_processor() -> CLIPImageProcessorPil:
    """Build an image processor: 8x8 pixels from -1 to 1; an 8x8 image is not resampled."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        do_resize=True,
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def processor() -> LlavaProcessor:
    """Build the processor that is shipped with the model.

    Example:
        >>> question = [{"type": "image"}, {"type": "text", "text": "what digit ?"}]
        >>> chat = [{"role": "user", "content": question}]
        >>> processor().apply_chat_template(chat, add_generation_prompt=True)
        '<bos> USER: <image> what digit ? ASSISTANT:'
    """
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
