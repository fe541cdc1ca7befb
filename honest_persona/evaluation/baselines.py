"""What can be had without the model's own state. A detector that does not beat these has shown nothing."""

from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from honest_persona.data.records import Record


def variant_only(variants: Sequence[str]) -> list[str]:
    """The flag that follows from the variant alone: FAIL for B. In the reference's data it is right for 93 % of B."""
    return ["FAIL" if variant == "B" else "PASS" for variant in variants]


def bigram_outsider(records: Sequence[Record], folds: int = 5) -> list[str]:
    """Flags by a reader of the text alone: logistic regression on words and pairs of words of the whole transcript.

    Cross-validated over `folds` folds that keep each cluster (item, entity) together.

    Raises:
        ValueError: fewer clusters than folds, or only one flag.
    """
    texts = [f"{record.system} {record.task} {record.response}" for record in records]
    reader = make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+"), LogisticRegression(max_iter=1000))
    flags = cross_val_predict(
        reader,
        texts,
        [record.flag for record in records],
        groups=[record.cluster for record in records],
        cv=GroupKFold(folds),
    )
    return list(flags)
