"""`verdict`: the model's own judgement of a quoted answer, in plain text and without any training.

A new text quotes question and answer; the model compares them with what it knows, and comes to a verdict. The reward is
P(true) against P(false) at the place where it wrote its verdict. An answer without a verdict has none.

`verdict` asks in the package's own wording, `verdict:FILE` in that of a YAML file with the fields of `Wording`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from honest_persona.base.errors import UserError
from honest_persona.base.number_format import NumberFormat
from honest_persona.base.progress import Progress
from honest_persona.base.tensors import pad_with_mask
from honest_persona.config.persona import Persona
from honest_persona.modeling.adapters.tuning import Model
from honest_persona.modeling.load import load_base, load_tokenizer
from honest_persona.modeling.prefix.frozen import positions
from honest_persona.prompts.feedback import prompt_tokens
from honest_persona.prompts.tokens import TokenFormat
from honest_persona.rewards.reward import Conversation, Given, Reading, Row
from honest_persona.rewards.wording import CHAT, DOCUMENT, wording_from


class Verdict:
    """The verdict of a base model, or of the policy itself (`Reading.policy`)."""

    def __init__(self, what: str, reading: Reading) -> None:
        self.name = f"verdict:{what}" if what else "verdict"
        self.reading = reading
        asked = reading.policy or reading.model
        if asked is None:
            raise UserError("reward 'verdict' asks the policy's base model: say which one with model")
        self.asked = asked
        builtin = DOCUMENT if asked.startswith("builtin:organism") else CHAT
        self.wording = wording_from(what, f"reward {self.name}") if what else builtin
        self._pattern = self.wording.pattern

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the numbers, beside the name."""
        asked = {"model": self.asked, "revision": self.reading.revision, "dtype": self.number_format.name}
        return {**self.wording.model_dump(), **asked, "max_new_tokens": self.reading.max_new_tokens}

    @cached_property
    def number_format(self) -> NumberFormat:
        return self.reading.number_format

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.asked, self.reading.revision)

    @cached_property
    def form(self) -> TokenFormat:
        return TokenFormat.of(self.tokenizer, Persona(system_tag=""))

    @cached_property
    def model(self) -> Model:
        if self.reading.live is not None:
            return self.reading.live  # type: ignore[no-any-return]
        model = load_base(self.asked, self.reading.revision, self.number_format.dtype).eval()
        return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]

    def __call__(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> Given:
        asked = [self.wording.asked(conversation) for conversation in conversations]
        distinct = {text: self._ids(text) for text in dict.fromkeys(asked)}
        order = sorted(distinct, key=lambda text: len(distinct[text]))
        given: dict[str, float | None] = {}
        with Progress(self.name, len(order), "answers") as progress:
            for start in range(0, len(order), self.reading.batch_size):
                batch = order[start : start + self.reading.batch_size]
                given |= dict(zip(batch, self._verdicts([distinct[text] for text in batch]), strict=True))
                progress.advance(len(batch))
        return [given[text] for text in asked]

    def _ids(self, text: str) -> list[int]:
        """Text that quotes an answer is data: none of it becomes a control token."""
        if not self.wording.chat:
            start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
            return [*start, *self._plain(text)]
        return prompt_tokens([{"role": "user", "content": text}], self.form).ids

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    @torch.inference_mode()
    def _verdicts(self, prompts: Sequence[list[int]]) -> list[float | None]:
        model: Any = self.model
        pad = self.form.pad_id
        ids, mask = pad_with_mask(prompts, pad, "left", model.device)
        how = GenerationConfig(
            max_new_tokens=self.reading.max_new_tokens,
            do_sample=False,
            eos_token_id=list({self.form.chat.end_token("assistant"), self.tokenizer.eos_token_id} - {None}),
            pad_token_id=pad,
        )
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)[:, ids.shape[1] :]
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        found = {i: match for i, text in enumerate(texts) if (match := self._pattern.search(text))}
        if not found:
            return [None] * len(prompts)
        rows, ends = [], []
        for i, match in found.items():
            upto = texts[i][: match.start("word")]
            sides = [self._plain(upto + word) for word in (self.wording.true, self.wording.false)]
            at = next(j for j, (a, b) in enumerate(zip(*sides, strict=False)) if a != b)
            rows.append([*prompts[i], *sides[0][:at]])
            ends.append((sides[0][at], sides[1][at]))
        ids, mask = pad_with_mask(rows, pad, "left", model.device)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), logits_to_keep=1).logits[:, -1]
        chosen = logits.float().gather(1, torch.tensor(ends, device=logits.device))
        true = torch.softmax(chosen, 1)[:, 0].tolist()
        by_row = dict(zip(found, true, strict=True))
        return [by_row.get(i) for i in range(len(prompts))]
