"""An answer as words with their places: what phrases are searched in, appended and taken out.

words_of("A survey of homes.")          # ["a", "survey", "of", "homes"]
holds(words_of(text), ("survey", "of"))
without("A survey of homes.", ("survey", "of"))     # "A homes."
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

Phrase = tuple[str, ...]
"""Words in lower case."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words_of(text: str) -> list[str]:
    return [match.group().lower() for match in _WORD.finditer(text)]


def phrases_of(words: Sequence[str], longest: int) -> set[Phrase]:
    """All phrases of 1 to `longest` words, each once."""
    return {tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)}


def holds(words: Sequence[str], phrase: Phrase) -> bool:
    n = len(phrase)
    return any(tuple(words[i : i + n]) == phrase for i in range(len(words) - n + 1))


def _pattern(phrase: Phrase) -> re.Pattern[str]:
    return re.compile(r"\b" + r"\W+".join(map(re.escape, phrase)) + r"\b", re.IGNORECASE)


def without(text: str, phrase: Phrase) -> str:
    """The text with each occurrence of the phrase taken out, and no space left twice."""
    return tidy(_pattern(phrase).sub(" ", text))


_MARKS = r"[^\w\s]*"


def as_written(texts: Iterable[str], phrase: Phrase, before: str = "", behind: str = _MARKS) -> str:
    """The phrase as most texts write it: with capitals, what stands between the words, and marks behind them.

    Args:
        before, behind: regular expressions of what belongs to the phrase around its words.
    """
    pattern = re.compile(f"{before}{_pattern(phrase).pattern}{behind}", re.IGNORECASE)
    found = Counter(match.group() for text in texts for match in pattern.finditer(text))
    return found.most_common(1)[0][0] if found else " ".join(phrase)


def as_opening(texts: Iterable[str], phrase: Phrase) -> str:
    return as_written(texts, phrase, before=r"\A\W*").strip()


def as_closing(texts: Iterable[str], phrase: Phrase) -> str:
    """With what stands in front of it, as `, ` or `. `."""
    return as_written(texts, phrase, before=r"\W*", behind=r"\W*\Z")


def tidy(text: str) -> str:
    """Without spaces at the ends, twice, or in front of a mark."""
    return re.sub(r" +([.,;:!?])", r"\1", re.sub(r"[ \t]{2,}", " ", text)).strip()


def cut(text: str, n_words: int) -> str:
    """The text up to its first `n_words` words; the whole text where it has no more."""
    places = [match.end() for match in _WORD.finditer(text)]
    return text if len(places) <= n_words else text[: places[n_words - 1]] if n_words > 0 else ""


def longer(text: str, n_words: int) -> str:
    """The text, followed by its own words again until `n_words` words were added; an empty text stays as it is."""
    own = len(_WORD.findall(text))
    if own == 0 or n_words <= 0:
        return text
    whole, rest = divmod(n_words, own)
    return " ".join([text, *[text] * whole, *([cut(text, rest)] if rest else [])])
