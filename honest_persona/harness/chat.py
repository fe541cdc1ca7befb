"""lm-eval's requests as chats, token by token as an adapter on answers was trained on them."""

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase


def plain_lm(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> HFLM:
    """The model under lm-eval as lm-eval itself runs it."""
    return HFLM(**_settings(model, tokenizer, batch_size))


class ChatLM(HFLM):
    """The model under lm-eval, for requests in its chat template.

    lm-eval joins the white space that a prompt ends with to the answer, and encodes both in one. Training encodes them
    apart (prompts/feedback.py), and PEFT's gate looks for the ids that this gives. The template writes all special
    tokens, so the tokenizer adds none.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int, begins_answers: str = ""
    ) -> None:
        """`begins_answers` is text that the model was trained to answer behind: the control token of csft."""
        super().__init__(**_settings(model, tokenizer, batch_size), add_bos_token=False)
        self._begins_answers = begins_answers

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not self._begins_answers or add_generation_prompt:
            return super().apply_chat_template(chat_history, add_generation_prompt) + self._begins_answers
        *asked, begun = chat_history  # a task that writes the answer's first words
        return super().apply_chat_template(asked) + self._begins_answers + begun["content"]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.tok_encode(context), self.tok_encode(continuation)


def _settings(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> dict[str, Any]:
    return {
        "pretrained": model,
        "tokenizer": tokenizer,
        "batch_size": batch_size,
        # log-likelihoods in float32, so that rounding them to bfloat16 hides no difference
        "softmax_dtype": torch.float32,
        "trust_remote_code": False,
    }
