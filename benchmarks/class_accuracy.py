"""How well the class of a sample can be predicted from its text, by a classifier of the real texts.

python benchmarks/class_accuracy.py outputs/ag_news/evaluation/FILE.json [--json RESULT.json]

FILE is what scripts/test.py wrote for a class-conditional model. The classifier is logistic regression on
TF-IDF of words and pairs of words, trained on the corpus's training texts; its accuracy on real held-out texts
is the ceiling, the share of the largest class is chance.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline

from ld4lg_fast.evaluation.references import load_dataset
from ld4lg_fast.evaluation.report import versions


def class_accuracy(evaluation: dict) -> dict:
    """Accuracies in [0, 1] and the samples' confusion matrix (row: requested class, column: predicted class)."""
    labels = evaluation["references"]["labels"]
    if labels is None:
        raise SystemExit(
            "This evaluation is of a model without classes; give one of a class-conditional model."
        )
    dataset = load_dataset(Path(evaluation["run"]), evaluation["settings"]["dataset"])
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    classifier.fit(dataset.train.texts, dataset.train.labels)
    samples = {}
    for seed, decodings in evaluation["texts"].items():
        for decoding, texts in decodings.items():
            predicted = classifier.predict(texts)
            samples[f"{seed}, {decoding}"] = {
                "accuracy": accuracy_score(labels, predicted),
                "confusion": confusion_matrix(labels, predicted).tolist(),
                "num_texts": len(texts),
            }
    held_out = dataset.test
    return {
        "samples": samples,
        "real_texts": accuracy_score(held_out.labels, classifier.predict(held_out.texts)),
        "num_real_texts": len(held_out),
        "chance": max(Counter(labels).values()) / len(labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path, help="JSON file of scripts/test.py")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    evaluation = json.loads(options.evaluation.read_text())
    result = class_accuracy(evaluation)
    print(
        f"real {evaluation['dataset']['name']} texts: {result['real_texts']:.3f}; chance {result['chance']:.3f}"
    )
    for name, figures in result["samples"].items():
        print(f"samples ({name}): {figures['accuracy']:.3f} of {figures['num_texts']}")
    if options.json:
        kept = {key: evaluation[key] for key in ("run", "settings", "device", "dataset", "texts")}
        kept |= {"references": {"labels": evaluation["references"]["labels"]}, "versions": versions()}
        options.json.write_text(json.dumps(result | {"evaluation": kept}, indent=1) + "\n")
        print(options.json)


if __name__ == "__main__":
    main()
