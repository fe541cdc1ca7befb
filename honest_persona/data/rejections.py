"""What a reader finds for each intervention: a sound `Candidate`, or a `Rejection` with place, reason and remedy.

Every intervention is counted once, under the first reason that applies, in this order:

1. Defects of the data, whatever was selected: missing_field, wrong_type, repeated_key, not_unicode, not_finite,
   nested_too_deep, no_conversation, bad_conversation, no_flag, two_labels, reserved_topic, unknown_variant,
   unknown_split, empty_response, empty_intervention, empty_review, unknown_flag, variant_b_without_prompt; of feedback
   alone: half_pair, no_prompt, empty_prompt, two_prompts, equal_answers, label_not_bool, no_number, negative_margin,
   no_responses, scores_differ, unknown_feedback; and what rejects a whole line, row, file or folder: malformed_json,
   malformed_csv, wrong_number_of_cells, unreadable_row, not_utf8, unknown_encoding, damaged_text, unreadable_file,
   empty_file, git_lfs_pointer, another_kind, damaged_file, unpacks_too_large, topic_mismatch, topic_without_files.
2. What the run did not ask for: topic_not_selected, model_not_selected, intervention_type_not_selected.
3. What cannot train: flag_not_trainable:AMBIGUOUS and :ERROR.
4. Quality filters: tag:<the first of tags_to_filter that the record carries>.
5. Sampling: outside_topic_share; and last duplicate_id, among what is left; of feedback also prompt_id_of_two, and of
   records that are read as feedback not_about_the_answer, answer_read and answer_with_two_flags.

So a defect of the files shows in every run over them, and a quality filter counts only records that the run would
otherwise have used. Group 1 is found by the readers (sources/), groups 2 to 5 by load.py and selection.py.
"""

from typing import Any, NamedTuple

from honest_persona.base.words import ALL, FLAGS, INTENT_ONLY

UNTRAINABLE_FLAGS = ("AMBIGUOUS", "ERROR")
"""Known, and not trained on."""
KNOWN_FLAGS = FLAGS + UNTRAINABLE_FLAGS

NOT_CHOSEN = (
    *("topic_not_selected", "model_not_selected", "intervention_type_not_selected"),
    *("flag_not_trainable", "tag", "outside_topic_share"),
)
"""Groups 2 to 5 but for duplicates: the row is sound."""

REMEDIES = {
    "malformed_json": "Mend the JSON at this place, or restore the file from its source.",
    "unreadable_file": "Make it a file that can be read (no folder, no broken link, permitted), or remove it.",
    "empty_file": "Remove the file, or write its rows.",
    "git_lfs_pointer": "Run `git lfs pull` in its folder: this is a pointer of Git LFS, not the file.",
    "another_kind": "This is a {detail}, whatever its ending says: unpack it, download it again or rename it.",
    "damaged_file": "Restore the file from its source: the part that stands here is no readable {detail}.",
    "unpacks_too_large": "Unpack the file and look at it: its text is longer than {detail}, which no batch is.",
    "unreadable_row": "Write the row again: a value in it is damaged, or has no counterpart in Python.",
    "malformed_csv": "Put texts with quotes, delimiters or line ends in quotes, and write each quote inside as two.",
    "wrong_number_of_cells": "Give the row as many cells as the header has; texts with delimiters stand in quotes.",
    "not_utf8": "Save the file as UTF-8: it seems to be {detail} (`iconv -f {detail} -t UTF-8`; look at the result).",
    "unknown_encoding": "Save the file as UTF-8: in which encoding it is now is not known.",
    "damaged_text": "Restore the text from its source: bytes that stand here are no {detail}.",
    "topic_without_files": "Add batch_*.json files to this folder, or remove the folder.",
    "missing_field": "Add the field `{detail}` (for `tags`: an empty list where there are none).",
    "wrong_type": "Give `{detail}` the type that the format asks for: text, list of texts, or object.",
    "repeated_key": "Keep one of the keys `{detail}` of the object that stands here.",
    "not_unicode": "Replace the lone surrogates (\\ud800 to \\udfff) in `{detail}` by real characters.",
    "not_finite": "Replace NaN and Infinity in `{detail}` by numbers or null.",
    "nested_too_deep": "Make `{detail}` flatter: lists and objects in it are nested more than 100 deep.",
    "no_conversation": "Give `messages`, or `task` and `response`; or name your columns: columns: {messages: ...}.",
    "bad_conversation": "Mend the conversation; what is wrong stands beside its place.",
    "no_flag": "Add a label (`is_bad`, `label`, `flag`), or name your column of labels: columns: {flag: ...}.",
    "two_labels": "Say which of {detail} is the label: columns: {flag: ...}.",
    "reserved_topic": "Give the topic another name: `all` stands for all topics together.",
    "unknown_variant": "Use A or B as the variant, or leave the column out: columns: {variant: null}.",
    "unknown_split": "Use train or validation, or leave `split` out for the seeded split by item.",
    "topic_mismatch": "Move the file to the folder of the topic it names, or correct its `topic` field.",
    "empty_response": "Generate the response again, or remove it from the data.",
    "empty_intervention": "Write the trigger text, or remove the intervention.",
    "empty_review": "Write the review, or remove the intervention.",
    "unknown_flag": "Use PASS or FAIL (AMBIGUOUS and ERROR are known, and not trained on), or say in flag_values "
    "what your labels mean.",
    "variant_b_without_prompt": "Give the item a system prompt B, or remove its B inferences.",
    "half_pair": "Give both `chosen` and `rejected`, or one `response` with a `label`.",
    "no_prompt": "Give the prompt: `prompt`, or `messages` that end with what the user said.",
    "empty_prompt": "Write the prompt, or remove the row.",
    "two_prompts": "Give all answers of a row to one prompt: what stands in front of the last message must be one.",
    "equal_answers": "Remove the pair, or make it again: from two equal answers nothing can be learnt.",
    "label_not_bool": "Write true (desirable) or false, or say in flag_values what your labels mean.",
    "no_number": "Write a number between -1e30 and 1e30 as `{detail}`: no words, no NaN, no Infinity.",
    "negative_margin": "Swap `chosen` and `rejected`: by their scores the rejected answer is the better one.",
    "no_responses": "Give at least one response, with a score for each.",
    "scores_differ": "Give one score for each of the responses.",
    "unknown_feedback": "Use binary_feedback, pairwise_feedback or scalar_feedback as `type`, or leave `type` out.",
    "prompt_id_of_two": "Give each prompt a `prompt_id` of its own, or leave it out: columns: {prompt_id: null}.",
    "not_about_the_answer": "Nothing to do: this intervention does not say whether the answer is good.",
    "answer_read": "Nothing to do: other interventions on an answer say nothing new about the answer.",
    "answer_with_two_flags": "Keep one of the flags: another intervention on the same answer has the other one.",
    "topic_not_selected": "Name the topic in train_topics or validation_topics to use it.",
    "model_not_selected": "Name the model in data_model_source to use it.",
    "intervention_type_not_selected": "Name the type in intervention_types to use it.",
    "flag_not_trainable": "Nothing to do: only PASS and FAIL train. Review it again to decide on one of them.",
    "tag": "Remove `{detail}` from tags_to_filter to use such records.",
    "outside_topic_share": "Raise claude_frac to use a larger share of each topic's items.",
    "duplicate_id": "Keep one of the records with this id, or give them different ids.",
}
"""The remedy for each reason; `{detail}` stands for the text after the colon of a reason such as `missing_field:T`."""
OF_FILES = {"malformed_json", "malformed_csv", "wrong_number_of_cells", "unreadable_row", "not_utf8", "damaged_text"}
OF_FILES |= {"unknown_encoding", "unreadable_file", "empty_file", "git_lfs_pointer", "another_kind", "damaged_file"}
OF_FILES |= {"unpacks_too_large"}
"""Reasons that say nothing about the form of rows."""


class Rejection(NamedTuple):
    """One intervention (or one unreadable file, line or folder) that is not used, and why."""

    file: str
    place: str
    """Path of the offending value inside the file."""
    field: str
    """The field's own name in that file."""
    reason: str
    """Stable snake_case code, with a detail behind a colon where there is one."""
    record_id: str | None = None
    ignored: tuple[str, ...] = ()
    """Columns of the row that are not used."""
    said: str = ""
    """What is wrong there, where the reason's remedy is not enough."""


class Candidate(NamedTuple):
    """A sound intervention; `selection.refusal` decides later whether the run uses it."""

    file: str
    place: str
    values: dict[str, Any]
    """A Record's columns; the flag may still be AMBIGUOUS or ERROR."""
    inference_place: str | None = None
    """Where the response stands in a stage-3 file; None for a row."""
    ignored: tuple[str, ...] = ()
    """Columns of the row that are not used."""
    notes: tuple[str, ...] = ()
    """What was read into the row, or stands in for what it lacks."""

    def reject(self, column: str, reason: str) -> Rejection:
        field = column
        if self.inference_place is None:
            place = f"{self.place}, {column}"
        else:
            field = _STAGE3_NAMES.get(column, column)
            parent = self.inference_place if column in ("response", "variant") else self.place
            place = f"{parent}.{field}" if column in _STAGE3_NAMES else parent
        return Rejection(self.file, place, field, reason, self.values["id"], self.ignored)


Outcome = Candidate | Rejection

_STAGE3_NAMES = {"response": "S", "intervention": "I", "review": "R", "flag": "P", "tags": "tags"}


def remedy_for(reason: str) -> str:
    """The sentence that says what to do about `reason`."""
    code, _, detail = reason.partition(":")
    return REMEDIES[code].replace("{detail}", detail)


def without_defect(candidate: Candidate) -> Outcome:
    """The candidate itself, or its rejection for a defect that stage-3 files and rows share."""
    values = candidate.values
    for column in ("response", "intervention", "review"):
        only_calls = column == "response" and (values.get("answer_fields") or {}).get("tool_calls")
        before_it = column == "response" and str(values.get("intervention_name")).partition("__")[0] == INTENT_ONLY
        if not values[column].strip() and not only_calls and not before_it:
            return candidate.reject(column, f"empty_{column}")
    if values["topic"] == ALL:
        return candidate.reject("topic", "reserved_topic")
    if values["flag"] not in KNOWN_FLAGS:
        return candidate.reject("flag", "unknown_flag")
    if values["variant"] == "B" and not values["system"].strip():
        return candidate.reject("variant", "variant_b_without_prompt")
    return candidate
