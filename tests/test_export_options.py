"""Options of the exported runtime that cannot work: one clear sentence each; no graph is made here."""

import pytest

from ld4lg_fast.export import exporter
from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from tests.test_export import v2_t5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "writes from a source text"),
        ({"source": ["a"]}, "1 sources for 2 samples"),
        ({"source": "a", "class_id": 3}, "class_id 3 is out of range"),
        ({"source": "a", "class_name": "inn"}, "no class 'inn'"),
        ({"source": "a", "class_id": 1, "class_name": "pub"}, "exclude each other"),
        ({"source": "a", "sampler": "euler"}, "Unknown sampler 'euler'"),
        ({"source": "a", "strategy": "beams"}, "Unknown decoding strategy 'beams'"),
        ({"source": "a", "beams": 2}, "no option 'beams'"),
        ({"source": "a", "spacing": "even"}, "Unknown spacing 'even'"),
        ({"source": "a", "spacing": "learned"}, "no learned times"),
        ({"source": "a", "guidance_interval": (0.5, 0.2)}, r"guidance_interval is \(0.5, 0.2\)"),
        ({"source": "a", "num_decodes": 2}, "num_decodes 2 needs strategy nucleus"),
        ({"source": "a", "strategy": "nucleus", "choose_decode": "best"}, "Unknown choose_decode 'best'"),
        ({"source": "a", "max_length": 40}, "max_length 40 exceeds the 16 tokens"),
        ({"source": "a", "top_p": 0.0}, "top_p 0.0 must be in"),
    ],
)
def test_options_that_cannot_work_are_refused(tokenizer, tmp_path, options, sentence):
    pipe = v2_t5(tokenizer)
    model = object.__new__(OnnxTextDiffusion)  # its sessions are not reached
    model.config = exporter.folder_config(pipe, "float32")
    model._source = True
    with pytest.raises(RuntimeInputError, match=sentence):
        model(2, **options)
