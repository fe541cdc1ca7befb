"""Architectures that cannot review, each with its reason; and architectures that read images too, and can review."""

_SPEECH = "writes speech or music, not text"
_PADDING = "gives other answers where rows of several lengths are padded to one batch"
_DRAFTS = "only drafts tokens for another model"
_HEAD = "makes its logits in a way that TRL's loss does not follow"
_LATER = "lets a token see later tokens"

UNSUPPORTED = {
    "bert-generation": _LATER,
    "blt": "reads bytes, without a tokenizer",
    "cpmant": _LATER,
    "emu3": "makes images",
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
    "git": "reads an image before its text, and pads wrongly without one",
    "hrm_text": "calls each layer many times, which PEFT does not follow where activations are recomputed",
    "inkling_text": _HEAD,
    "minimax": _PADDING,
    "mllama": "reads images between its layers",
    "modernbert-decoder": _HEAD,
    "moshi": _SPEECH,
    "mpt": "is called by PEFT without the place from which the adapter acts",
    "musicgen": _SPEECH,
    "musicgen_melody": _SPEECH,
    "openai-gpt": "keeps nothing of the tokens that it has read",
    "prophetnet": "reads with two streams, which an adapter cannot follow",
    "recurrent_gemma": _PADDING,
    "reformer": "reads in chunks of fixed lengths",
    "rwkv": _PADDING,
    "trocr": "reads an image",
    "xlm": _LATER,
    "xlnet": _LATER,
    "xlstm": "does not go on from the state that it keeps",
}
"""By transformers' name of the architecture, `model_type`. docs/families.md has all that work."""

# fmt: off
WITH_IMAGES = frozenset((
    "aria", "deepseek_vl", "exaone4_5", "glm46v", "glm4v", "glm4v_moe", "idefics3", "internvl", "kimi_k25", "lfm2_vl",
    "llava", "llava_next", "llava_onevision", "mistral3", "mistral_large4", "ovis2", "qwen2_5_vl", "qwen2_vl",
    "qwen3_vl", "qwen3_vl_moe", "smolvlm",
))
# fmt: on
"""Architectures that transformers has no class for that reads text alone, and that work when they read text alone."""
