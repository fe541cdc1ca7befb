"""An adapter that is read once, for several evaluations."""

from functools import cached_property

from honest_persona.base.console import say
from honest_persona.base.number_format import FormatName, NumberFormat, format_of
from honest_persona.modeling.adapters.published import resolve
from honest_persona.persona.product import HonestPersona, PersonaFolder


class Opened:
    """Card and tokenizer are read at once; the model is loaded when it is first asked for, and kept.

    Args:
        model: the main persona to read, as in `PersonaFolder.load`.

    Raises UserError: no adapter there, or one that is not whole.
    """

    def __init__(self, adapter: str, dtype: FormatName = "auto", model: str | None = None) -> None:
        self.name = adapter
        self.dtype = dtype
        self.model = model
        self.folder = PersonaFolder.read(resolve(adapter))

    @cached_property
    def number_format(self) -> NumberFormat:
        return format_of(self.dtype, self.folder.card.trained_in)

    @cached_property
    def persona(self) -> HonestPersona:
        say(str(self.number_format))
        return self.folder.load(self.number_format.dtype, model=self.model)
