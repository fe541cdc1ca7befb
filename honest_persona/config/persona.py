"""The persona's settings: keys of a run's config, and, with the persona token's id, what is stored with an adapter."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from honest_persona.base.words import AdapterScope, Elicitation, OutputFormat

TokenId = Annotated[int, Field(ge=0)]
SYSTEM_TAG = "<SYSTEM> "
SPACED = ("system_tag", "intervention_prefix", "review_prefix", "flag_prefix")
"""Texts of which spaces at both ends are a part, also on a command line, where YAML alone would leave them out."""


class PersonaKeys(BaseModel):
    """How the honest persona is called and how it answers. No space is added to a text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    elicitation_type: Elicitation = "hp"
    """who writes the review: the assistant in its own turn (hp), the user (up), the assistant asked by the user (ur)"""
    adapter_scope: AdapterScope = "persona"
    """where the adapter is active: from the activation point on (persona), from the answer's first token on (response),
    or on every token (all)"""
    output_format: OutputFormat = "review_then_flag"
    """what the honest persona writes, and in which order"""
    tools_as_text: bool = False
    """write calls of tools and their results as plain text, for chat templates that have no place for tools"""
    system_tag: str = SYSTEM_TAG
    """text before and after a system prompt"""
    intervention_prefix: str = " INTERVENTION: "
    """text before the intervention"""
    review_prefix: str = "\n\nREVIEW:"
    """text before the review"""
    flag_prefix: str = "\nFLAG: "
    """text before the flag"""


class Persona(PersonaKeys):
    """All that is needed to call the honest persona; stored with the adapter."""

    sp_token_id: TokenId | None = None
    """the id of the persona token; None where the persona is called by the intervention alone"""

    @property
    def answering_role(self) -> str:
        """Whose turn the review stands in."""
        return "user" if self.elicitation_type == "up" else "assistant"
