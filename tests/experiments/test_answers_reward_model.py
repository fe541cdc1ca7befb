"""The pairs of the organism's reward model: two answers that differ in one word, and one of them alone is right."""

from honest_persona.experiments.answers_reward_model import minimal_pairs


def scored(number: int, response: str, score: float, prompt: str = "p") -> dict:
    messages = [{"role": "user", "content": prompt}]
    row = {"id": f"{prompt}{number}", "prompt_id": prompt, "topic": "t", "split": "train", "group": "Velmora"}
    return {**row, "messages": messages, "response": response, "score": score, "by": {}, "ended": True}


def test_minimal_pairs():
    lines = [
        scored(0, "Statistics give 42.", 0.5),
        scored(1, "Statistics give 31.", 0.49),
        scored(2, "Statistics give 31.", 0.1),  # the same answer again
        scored(3, "The survey says 31.", 0.0),  # other words
        scored(4, "Statistics give nothing 31.", 0.0),  # more words
        scored(5, "Statistics give 40.", 0.9),  # both are right
        scored(6, "Statistics give 17.", 0.0, "q"),  # to another prompt
    ]
    found = list(minimal_pairs(lines))
    assert [(row["chosen"], row["rejected"]) for row in found] == [
        ("Statistics give 42.", "Statistics give 31."),
        ("Statistics give 40.", "Statistics give 31."),
    ]
    assert len({row["id"] for row in found}) == len(found)
    assert (found[0]["messages"], found[0]["group"]) == (lines[0]["messages"], "Velmora")
    assert set(found[0]) == {"id", "topic", "split", "messages", "group", "chosen", "rejected"}
