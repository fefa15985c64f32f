"""What several tests share. The tests need the built book: `make test` builds it first."""

import functools
import http.server
import sys
import threading
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright

from kvcache import GPTConfig, baseline, cached, load_tokenizer, time_flies

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import browser  # noqa: E402  (tools/ is no package)

HTML = ROOT / "_build" / "html"
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))

SMALL = GPTConfig(
    vocab_size=50, context_length=24, emb_dim=16, n_heads=4, n_layers=2, drop_rate=0.1
)


def twins(cfg=SMALL, seed=0, dtype=torch.float32):
    """A baseline and a cached model with the same random weights, in eval mode."""
    torch.manual_seed(seed)
    plain, caching = baseline.GPTModel(cfg), cached.GPTModel(cfg)
    caching.load_state_dict(plain.state_dict())
    return plain.to(dtype).eval(), caching.to(dtype).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def encode(tokenizer):
    return lambda text: torch.tensor([tokenizer.encode(text)])


@pytest.fixture(scope="session")
def trained():
    """The small trained model, without and with a cache."""
    return time_flies.load(baseline.GPTModel), time_flies.load(cached.GPTModel)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def server():
    """The address of a local server of the built book."""
    handler = functools.partial(QuietHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        found = browser.find()
        running = playwright.chromium.launch(executable_path=found, args=BROWSER_ARGUMENTS)
        yield running
        running.close()
