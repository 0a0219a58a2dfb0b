"""The page for people, looked at in a real browser: it fills, it stays live, it can be read by everybody."""

import asyncio
import io
from types import SimpleNamespace

import pytest
from matplotlib.image import imread

from tests.shell.router.browser import CHROMIUM, browser_tab

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"),
    pytest.mark.timeout(120),
]

_CONTRASTS = """
(() => {
  const parse = (colour) => {
    const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
    return { parts: [r, g, b], opaque: a === undefined || a > 0 };
  };
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ({ parts: [r, g, b] }) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.opaque) return colour;
    }
    return { parts: [255, 255, 255] };
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || parent.tagName === "SCRIPT" || !parent.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(parent).color)), light(ground(parent))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()
"""
"""Every visible text with its contrast as WCAG 2.2 defines it, the lowest first."""
_NAMELESS = """
[...document.querySelectorAll("input, section, article, [role=meter], [role=img], [role=region]")]
  .filter((node) => !node.getAttribute("aria-label") && !node.labels?.length
    && !document.getElementById(node.getAttribute("aria-labelledby")))
  .map((node) => node.outerHTML.slice(0, 80))
"""


@pytest.fixture
async def tab(tmp_path):
    async with browser_tab(tmp_path / "profile") as found:
        yield found


async def test_it_fills_with_the_fleet_and_stays_live(start_cluster, tab, given):
    cluster = await start_cluster({"status_page": {"period_s": 0.1}})
    await cluster.chat("hello")
    await cluster.chat(given.long_prompt, temperature=0)
    await cluster.chat(given.long_prompt, temperature=0)
    await cluster.assert_idle()
    await tab.open(cluster.url)
    await tab.until("document.getElementById('state').textContent === 'live'")
    pools = await tab.run("document.getElementById('pools').innerText")
    for word in ("prefill", "decode", "H100", "A100", "decode-0", "decode-1", "2 ready"):
        assert word in pools
    await tab.until("document.querySelectorAll('#rows tr').length === 3")
    rows = await tab.run("document.getElementById('rows').innerText")
    for word in ("cached", "disaggregated", "combined", "prompt_short", "cache_hit"):
        assert word in rows
    assert "33 %" in await tab.run("document.getElementById('key').innerText")
    await cluster.chat("one more")
    await tab.until("document.querySelectorAll('#rows tr').length === 4")
    assert tab.complaints == []


async def test_text_is_placed_as_text(start_cluster, tab):
    """What engines and clients can name must not become markup, whatever the policy would still forbid."""
    cluster = await start_cluster({"status_page": {"period_s": 0.1}})
    await tab.open(cluster.url)
    await tab.until("document.getElementById('state').textContent === 'live'")
    await tab.run(
        "showPools([{name: '<img src=x>', model: '<b>m</b>', role: 'decode', gpu_type: 'A100', wanted: null, "
        "power_w: null, replicas: []}])"
    )
    assert await tab.run("document.querySelectorAll('#pools img, #pools b').length") == 0
    assert "<img src=x>" in await tab.run("document.getElementById('pools').textContent")


async def test_decisions_appear_once_the_admin_key_is_given(start_cluster, tab, given):
    cluster = await start_cluster({"status_page": {"period_s": 0.1, "decisions_without_key": False}})
    await cluster.chat("hello")
    await tab.open(cluster.url)
    await tab.until("!document.getElementById('keyform').hidden")
    assert await tab.run("document.getElementById('decisions').hidden")

    async def give(key):
        await tab.run(f"document.getElementById('adminkey').value = '{key}'")
        await tab.run("document.querySelector('#keyform button').click()")

    await give("wrong")
    await tab.until("!document.getElementById('wrong').hidden")
    assert await tab.run("document.getElementById('decisions').hidden")
    await give(given.admin_key)
    await tab.until("document.querySelectorAll('#rows tr').length === 1")
    assert await tab.run("document.getElementById('keyform').hidden")
    assert given.admin_key not in await tab.run("document.documentElement.outerHTML + location.href")


async def test_it_says_so_when_a_model_has_no_replica_and_when_nothing_comes_any_more(
    start_cluster, tab, monkeypatch
):
    cluster = await start_cluster({"status_page": {"period_s": 0.1}})
    await tab.open(cluster.url)
    await tab.until("document.getElementById('state').textContent === 'live'")
    cluster.remove("decode-0", "decode-1")
    await tab.until("document.getElementById('state').textContent === 'no replica for sim'")

    async def never(_):
        await asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patch:
        patch.setattr("deployments.router.pages.status_page.asyncio", SimpleNamespace(sleep=never))
        await tab.until("document.getElementById('state').textContent === 'no connection'")
    await tab.until("document.getElementById('state').textContent === 'no replica for sim'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_it_on_any_screen(start_cluster, tab, tmp_path, scheme, given):
    cluster = await start_cluster({"status_page": {"period_s": 0.1}})
    await asyncio.gather(*(cluster.chat(f"hello {number}") for number in range(5)))
    await cluster.chat(given.long_prompt)
    await tab.scheme(scheme)
    await tab.open(cluster.url)
    await tab.until("document.querySelectorAll('#rows tr').length === 6")
    contrasts = await tab.run(_CONTRASTS)
    assert len(contrasts) > 50
    assert contrasts[0][0] >= 4.5, f"{contrasts[0]} in {scheme}"
    assert await tab.run(_NAMELESS) == []
    grounds = set()
    for width in (360, 820, 1400):
        await tab.size(width, 900)
        await tab.until(f"window.innerWidth === {width}")
        assert await tab.run("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        picture = imread(io.BytesIO(await tab.screenshot(tmp_path / f"{width}.png")))
        assert picture.shape[1] == width
        assert len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[2])[::97]}) > 8, "it is blank"
        grounds.add(picture[0, 0, 0] > 0.5)
    assert grounds == {scheme == "light"}
