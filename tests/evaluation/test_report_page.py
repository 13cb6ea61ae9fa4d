"""The HTML page of an evaluation: complete in itself, true to the figures, and alive in a browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.evaluation import command
from ld4lg_fast.evaluation.report_charts import Point, bars, histogram, scatter, ticks
from ld4lg_fast.evaluation.report_latents import FRAMES, film, latent_map
from ld4lg_fast.evaluation.report_page import _frontier
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.conftest import make_model
from tests.engine.test_engine import make_v1
from tests.evaluation.evaluated_runs import FAST, NAMES, write_corpus, write_run

VOID = {"meta", "input"}
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
USE = """
const box = document.querySelector("#samples input"), slider = document.querySelector("#film input");
box.value = %s;
box.dispatchEvent(new Event("input"));
slider.value = slider.max;
slider.dispatchEvent(new Event("input"));
parent.postMessage({
  found: document.querySelector("#samples .hint").textContent,
  marked: document.querySelectorAll("#samples mark").length,
  step: document.querySelector("#film output").textContent,
  width: innerWidth,
  beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
}, "*");
"""
"""What a person does with the page; the page around it is told what it then shows."""
FRAME = """<body><script>onmessage = event => Object.assign(document.body.dataset, event.data);</script>
<iframe src="%s" style="width: %dpx; height: 844px; border: 0"></iframe></body>"""
"""A browser's own window is no narrower than 500 pixels."""
REAL = ["The Mill is a pub.", "Clover serves food near the river.", "Juniper is cheap.", "Saffron is a cafe."]


class Page(HTMLParser):
    """Tags that are closed as they were opened, and everything that would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched = [], []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model())


def evaluate(monkeypatch, run_dir, *overrides):
    """The page that the command writes, and the content of its JSON file."""
    page, out = run_dir.parent / "page.html", run_dir / "evaluation" / "now.json"
    arguments = [f"infer.output_dir={run_dir}", f"infer.output_file={out}", f"evaluation.report={page}"]
    monkeypatch.setattr(sys, "argv", ["test.py", *arguments, *FAST, *overrides])
    command.main()
    return page, json.loads(out.read_text())


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_holds_all_that_was_measured_and_fetches_nothing(class_run, monkeypatch):
    pytest.importorskip("spacy")
    seeds = "evaluation.seeds=[3,4]"
    page, content = evaluate(monkeypatch, class_run, "generation.strategy=[greedy,nucleus]", seeds)
    text = page.read_text()
    assert Page(text).fetched == [] and "http" not in text.replace("http-equiv", "") and "url(" not in text
    assert "<!--" not in text.replace("<!doctype", "")
    data = data_of(text)
    assert data["samples"] == content["texts"] and data["references"] == content["references"]["texts"]
    assert data["classes"] == [NAMES[label] for label in content["references"]["labels"]]
    for row in content["rows"]:
        assert f"<th>{row['name']}</th>" in text
        assert all(f"{figure['mean']:.4g}" in text for figure in row["metrics"].values())
        assert all(f"skipped: {why}." in text for why in row["skipped"].values())
    assert {"diversity", "unique_words"} <= content["rows"][0]["metrics"].keys()
    assert data["film"]["frames"][-1]["text"] == content["texts"]["seed 3"]["greedy"][0]
    assert data["film"]["num_steps"] == 2
    tolerance = content["decoder_tolerance"]
    assert len(tolerance["checks"]) == 8
    assert all(f"<li>{escape(check['line'])}.</li>" in text for check in tolerance["checks"])
    assert f"<tr><th>sampled</th><td>{tolerance['sampled']['loss']:.3f}</td>" in text
    for name in ("Frontier", "Length", "Distinct n-grams", "How many texts share a 4-gram", "Latent map"):
        assert f"<h3>{name}</h3>" in text


def test_a_line_for_each_guidance_scale_joins_its_steps():
    row = {"strategy": "beam", "name": "beam"}
    points = [(2, 1, 0.9, 0.2), (8, 1, 0.8, 0.5), (2, 4, 0.7, 0.3), (8, 4, 0.6, 0.6)]
    rows = [
        row
        | {"sampling_steps": steps, "guidance_scale": scale}
        | {"metrics": {"diversity": {"mean": x}, "mauve": {"mean": y}}}
        for steps, scale, x, y in points
    ]
    chart, caption = _frontier({"rows": rows}, {"before": {"rows": rows}})
    lines = re.findall(r'<polyline class="sweep (s\d)" points="([^"]*)"', chart)
    assert len(lines) == 2 and lines[0][0] != lines[1][0] and "joined in the order of their steps" in caption
    assert [len(places.split()) for _, places in lines] == [2, 2]
    assert "beam, guidance 1" in chart and "beam, guidance 4" in chart and "earlier ones" in chart


def test_earlier_evaluations_of_the_run_are_on_the_frontier(class_run, monkeypatch):
    pytest.importorskip("spacy")
    folder = class_run / "evaluation"
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text("{}")
    row = {"name": "beam", "strategy": "beam", "num_texts": 3, "skipped": {}}
    row["metrics"] = {"diversity": {"mean": 0.25}, "memorization": {"mean": 0.125}}
    (folder / "unipc_8.json").write_text(json.dumps({"rows": [row], "references": {}}))
    page, _ = evaluate(monkeypatch, class_run)
    assert "unipc_8: beam – diversity 0.25, memorization 0.125" in page.read_text()
    assert page.read_text().count("<li><i class=") >= 3


def test_texts_cannot_break_out_of_the_page(class_run, monkeypatch):
    evil = "</script><img src=x onerror=alert(1)> & <b>"
    monkeypatch.setattr(TextDiffusionPipeline, "decode", lambda self, latents, *a, **o: [evil] * len(latents))
    page, content = evaluate(monkeypatch, class_run)
    assert content["texts"]["seed 0"]["greedy"][0] == evil
    text = page.read_text()
    assert Page(text).fetched == [] and data_of(text)["samples"]["seed 0"]["greedy"][0] == evil


def test_sequence_to_sequence_shows_sources_and_needs_no_diversity(autoencoder, tmp_path, monkeypatch):
    pytest.importorskip("rouge_score")
    write_corpus(tmp_path / "corpus", with_sources=True)
    run_dir = write_run(tmp_path / "run", autoencoder, tmp_path / "corpus", dim_context=64)
    page, content = evaluate(monkeypatch, run_dir, "generation.num_candidates=2")
    data = data_of(page.read_text())
    assert data["sources"] == content["references"]["sources"] and data["candidates"] == 2
    assert len(data["samples"]["seed 0"]["greedy"]) == 2 * len(data["references"])
    assert data["film"]["frames"][-1]["text"] == content["texts"]["seed 0"]["greedy"][0]


def test_a_film_shows_predictions_and_ends_with_the_sample(pipe):
    decoding, options = DecodingConfig("greedy", 12), {"num_inference_steps": 40, "seed": 2}
    made = film(pipe, decoding, options)
    assert [frame.step for frame in made.frames][:1] == [1] and made.frames[-1].step == made.num_steps == 40
    assert len(made.frames) == FRAMES and made.shape == (6, 8)
    want = pipe(1, decoding=decoding, **options)
    assert made.frames[-1].text == want.texts[0]
    picture = np.frombuffer(base64.b64decode(made.frames[-1].latents), dtype=np.int8).reshape(made.shape)
    expected = (pipe.model.normalize(want.latents)[0] / 3).clamp(-1, 1)
    torch.testing.assert_close(torch.tensor(picture) / 127, expected, atol=0.005, rtol=0)


def test_a_film_in_recipe_v1_has_the_length_of_its_text(autoencoder):
    from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
    from ld4lg_fast.pipeline.statistics import RunStatistics

    model = make_v1(dim_latent=autoencoder.lm.config.hidden_size, max_len=autoencoder.max_len)
    hidden = LanguageAutoencoder(autoencoder.lm, autoencoder.tokenizer, None, autoencoder.max_len, True)
    pipe = TextDiffusionPipeline(hidden, model, RunStatistics(length_counts=(0,) * 7 + (1,)))
    decoding, options = DecodingConfig("greedy", 12), {"num_inference_steps": 3}
    made = film(pipe, decoding, options)
    assert made.shape[0] == 7 and made.frames[-1].text == pipe(1, decoding=decoding, **options).texts[0]
    assert latent_map(pipe, REAL, REAL[:2]).sampled[0] == pytest.approx(latent_map(pipe, REAL, REAL).real[0])


def test_the_map_shows_the_principal_components_of_the_real_texts(pipe):
    found = latent_map(pipe, REAL, [REAL[2], "", "Something else entirely"])
    assert len(found.real) == 4 and len(found.sampled) == 2
    assert found.sampled[0] == pytest.approx(found.real[2], abs=1e-3)
    places = np.array(found.real)
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-4)
    assert abs(places[:, 0] @ places[:, 1]) < 1e-3 * np.square(places).sum()
    vectors = pipe.encode(REAL)[0].flatten(1).double().numpy()
    total = np.square(vectors - vectors.mean(axis=0)).sum()
    assert found.shares == pytest.approx(np.square(places).sum(axis=0) / total, rel=1e-4)
    assert latent_map(pipe, REAL[:2], REAL) is None and latent_map(pipe, REAL, [" "]) is None


def test_ticks_are_round_and_within():
    assert ticks(0, 1) == [0, 0.5, 1] or ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    for low, high in ((0, 1), (3, 3), (-2.5, 17), (0.0012, 0.0019), (0, 48200)):
        found = ticks(low, high)
        assert 1 <= len(found) <= 5 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_bars_and_areas_have_the_heights_of_their_values():
    chart = bars(["a", "b"], {"one": [1.0, 0.5], "two": [0.0, 0.25]}, ("x", "y"))
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"', chart)]
    assert heights == pytest.approx([190.0, 95.0, 0.0, 47.5], abs=0.1)
    area = histogram({"only": [3, 3, 4, 5]}, ("x", "y"))
    levels = [float(y) for y in re.findall(r"V([\d.]+)H", area)]
    assert levels == pytest.approx([10.0, 105.0, 105.0], abs=0.1) and "legend" not in area


def test_dots_carry_their_labels_escaped():
    chart = scatter({"one": [Point(0, 1, 'a "b" <c>')], "two": [Point(1, 0, "d", hollow=True)]}, ("x", "y"))
    assert 'data-label="a &quot;b&quot; &lt;c&gt;"' in chart and "dot s1 hollow" in chart


def browsed(page, folder):
    """The page's elements after its scripts have run."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900"]
    command += ["--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_runs_the_page(class_run, monkeypatch, tmp_path):
    page, _ = evaluate(monkeypatch, class_run)
    text = browsed(page, tmp_path)
    shown = re.search(r'<section id="samples">(.*?)</section>', text, re.S)[1]
    assert shown.count("<li>") == 6 and "6 of 6 texts" in shown
    assert "step 1 of 2" in text and re.search(r'<canvas[^>]*width="8" height="6"', text)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_fits_the_page_into_a_phone_finds_texts_and_plays_the_film(
    class_run, monkeypatch, tmp_path
):
    page, content = evaluate(monkeypatch, class_run)
    texts = content["texts"]["seed 0"]["greedy"]
    word = texts[0].split()[0].lower()
    page.write_text(page.read_text().replace("</body>", f"<script>{USE % json.dumps(word)}</script></body>"))
    for width in (390, 1280):
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME % (page.as_uri(), width))
        text = browsed(frame, tmp_path)
        found = sum(word in sample.lower() for sample in texts)
        assert f'data-found="{found} of 6 texts"' in text and f'data-marked="{found}"' in text
        assert f'data-width="{width}"' in text and 'data-beyond="0"' in text
        assert 'data-step="step 2 of 2"' in text
