"""Stand-ins for the FlashAttention packages."""

import sys

import pytest

from ld4lg_fast.models import attention_backends
from ld4lg_fast.models.attention_backends import HALF, PACKAGES, unusable_reason
from tests.models import flash_attn_stand_in as stand_in


@pytest.fixture
def install(monkeypatch):
    """Puts stand-ins in the place of packages, and a GPU of some compute capability in that of the device."""

    def put(*versions, capability=(9, 0), dtypes=HALF):
        by_number = {package.version: package for package in PACKAGES}
        known = {by_number[number].distribution: f"{number}.0" for number in versions}
        for number in versions:
            monkeypatch.setitem(sys.modules, by_number[number].module, stand_in.VERSIONS[number]())
        monkeypatch.setattr(attention_backends, "installed_version", lambda p: known.get(p.distribution))
        monkeypatch.setattr(attention_backends, "capability", lambda device: capability)
        monkeypatch.setattr(attention_backends, "HALF", dtypes)
        unusable_reason.cache_clear()

    stand_in.tokens.clear()
    stand_in.options.clear()
    unusable_reason.cache_clear()
    yield put
    unusable_reason.cache_clear()
