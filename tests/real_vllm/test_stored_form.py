"""What one engine's GPU keeps and what another's keeps is stored as the same bytes."""

from __future__ import annotations

import pytest
from vllm_harness import VllmHost


@pytest.mark.parametrize("attention", ["heads", "latent"])
def test_every_engine_stores_the_same_bytes_and_gets_its_own_back(
    host: VllmHost, attention: str
) -> None:
    forms = host.stored_forms(attention=attention)

    assert len(forms) == {"heads": 4, "latent": 2}[attention]
    assert {form["layout"] for form in forms.values()} == {forms["SGLang"]["layout"]}
    assert {form["stored"] for form in forms.values()} == {forms["SGLang"]["stored"]}
    assert len(bytes.fromhex(forms["SGLang"]["stored"])) > 0
    assert [name for name, form in forms.items() if not form["comes_back"]] == []
