"""The known corpora: file names, columns, hub repositories and published splits."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HubSource:
    """A corpus on the Hugging Face hub.

    Repositories with a loading script, which ``datasets`` >= 4 refuses, are read from the hub's Parquet conversion, a
    branch with one folder per configuration. ``streaming``: rows come over the network, and nothing is kept on disk.
    """

    path: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    streaming: bool = False
    first_label: int = 0


PARQUET = "refs/convert/parquet"

_STEMS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class DatasetSpec:
    """Description of a corpus for ``load_text_dataset``.

    Columns are candidates in order of preference; a dot descends into a nested object.
    """

    text: tuple[str, ...] = ("text",)
    label: str | None = None
    source: tuple[str, ...] = ()
    document: str | None = None
    """Column whose equal values mark the texts of one document."""
    class_names: tuple[str, ...] | None = None
    label_threshold: float | None = None
    """If labels are scores: the class is 1 from this score on."""
    stems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """File names without extension per split, tried before the common ones."""
    folders: tuple[str, ...] = ()
    """Further names of the corpus's folder."""
    separator: str | None = None
    """In .txt files the text follows this separator (Diffusion-LM's ``meta||text``)."""
    hub: HubSource | None = None
    clean: bool = False
    """Remove tokenization spaces, as published."""
    shuffle: bool = False
    """Shuffle every split as published, which determines the rows of the held-out sets."""
    validation_rows: int | None = None
    """Number of training rows that are held out if there is no validation file."""
    test_rows_after: int | None = None
    """If there is no test file, the validation rows after this many are the test set."""
    where_to_get: str = ""

    def stems_of(self, split: str) -> tuple[str, ...]:
        return self.stems.get(split, ()) + _STEMS[split]


def split_alias(name: str) -> str | None:
    """train, validation or test for any usual name of it, else None."""
    return next((split for split, stems in _STEMS.items() if name in stems), None)


def _wmt14(source: str, target: str) -> DatasetSpec:
    return DatasetSpec(
        text=(f"translation.{target}", target),
        source=(f"translation.{source}", source),
        folders=("wmt14",),
        hub=HubSource("wmt/wmt14", config="de-en"),
        clean=True,
        shuffle=True,
    )


DATASETS: dict[str, DatasetSpec] = {
    "e2e": DatasetSpec(
        text=("ref", "text", "human_reference"),
        document="mr",
        stems={
            "train": ("trainset", "src1_train"),
            "validation": ("devset", "src1_valid"),
            "test": ("testset_w_refs", "src1_test"),
        },
        folders=("e2e_data",),
        separator="||",
        hub=HubSource("tuetschek/e2e_nlg", revision=PARQUET, data_dir="default"),
        clean=True,
    ),
    "roc": DatasetSpec(
        stems={"train": ("roc_train",), "validation": ("roc_valid",)},
        folders=("ROCstory",),
        shuffle=True,
        test_rows_after=1000,
        where_to_get="ROCStories is given out by its authors on request",
    ),
    "sst": DatasetSpec(
        text=("sentence", "text"),
        label="label",
        class_names=("negative", "positive"),
        label_threshold=0.5,
        hub=HubSource("stanfordnlp/sst", revision=PARQUET, data_dir="default"),
        clean=True,
    ),
    "ag_news": DatasetSpec(
        text=("description", "text"),
        label="label",
        class_names=("World", "Sports", "Business", "Sci/Tech"),
        hub=HubSource("pietrolesci/ag_news", config="original", first_label=1),
        clean=True,
        validation_rows=1000,
    ),
    "movie_reviews": DatasetSpec(
        label="label",
        clean=True,
        where_to_get="polarity 2.0 of Pang and Lee 2004",
    ),
    "xsum": DatasetSpec(
        text=("summary",),
        source=("document",),
        hub=HubSource("EdinburghNLP/xsum", revision=PARQUET, data_dir="default"),
        clean=True,
        shuffle=True,
    ),
    "qqp": DatasetSpec(
        text=("trg",),
        source=("src",),
        shuffle=True,
        where_to_get="the paraphrase files train.jsonl, valid.jsonl and test.jsonl come with DiffuSeq",
    ),
    "wmt14-de-en": _wmt14("de", "en"),
    "wmt14-en-de": _wmt14("en", "de"),
    "custom": DatasetSpec(),
    "demo": DatasetSpec(),
}
