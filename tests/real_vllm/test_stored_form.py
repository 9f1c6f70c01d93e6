"""Every engine's GPU stores the same bytes, and engines share them where they compute alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm_harness import VllmHost


@pytest.mark.parametrize("attention", ["heads", "latent"])
def test_every_engine_stores_the_same_bytes_and_gets_its_own_back(
    host: VllmHost, models: dict[str, Path], attention: str
) -> None:
    forms = host.stored_forms(attention=attention, model=str(models["mha"]))

    assert len(forms) == {"heads": 4, "latent": 2}[attention]
    assert len({form["stored"] for form in forms.values()}) == 1
    assert not any(form["is_empty"] for form in forms.values())
    assert [name for name, form in forms.items() if not form["comes_back"]] == []


def test_engines_share_a_namespace_where_they_compute_alike(
    host: VllmHost, models: dict[str, Path]
) -> None:
    forms = host.stored_forms(attention="heads", model=str(models["mha"]))
    latents = host.stored_forms(attention="latent", model=str(models["mla"]))

    assert len({form["namespace"] for form in forms.values()}) == 1
    assert len({form["namespace"] for form in latents.values()}) == len(latents)


def test_what_one_engine_left_on_disk_is_found_by_the_other(
    host: VllmHost, models: dict[str, Path], tmp_path: Path
) -> None:
    found = host.handed_over(model=str(models["mha"]), folder=str(tmp_path))

    assert len(found) == 7
    assert [pair for pair, is_right in found.items() if not is_right] == []
