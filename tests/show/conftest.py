"""What several of these modules show."""

import pytest
import torch
from shown import ARGUMENTS, CHROMIUM

import perturb_nc as pnc


@pytest.fixture(scope="session")
def statistics():
    labels = torch.arange(60) % 3
    noise = torch.arange(300.0).square().sin().view(60, 5)
    return pnc.ClassStatistics.from_features(torch.eye(3, 5)[labels] + 0.2 * noise, labels)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs the browser `chromium`")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()
