"""The page of the report in headless Chromium: it renders, sorts, filters, opens what is behind a figure."""

from __future__ import annotations

import json
import shutil
from urllib.parse import quote

import pytest
from report_page import BREAK, QUOTES, SCRIPT, whole

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the extra `test`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    (folder / "index.html").write_text(whole(), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.page = (folder / "index.html").as_uri()
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser):
    """The page, fresh; afterwards: no complaint, nothing asked of a network. An `alert` fails any command."""
    size(browser, 1280, 1000)
    browser.get_log("performance")  # what the browser loaded before
    browser.get(browser.page)
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def size(browser, width, height, media="", dark=False):
    wanted = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", wanted)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": scheme})


def find(browser, selector):
    return browser.find_element("css selector", selector)


def column(browser, section, place, body=0):
    """Texts of a column of a section's first table."""
    script = """return [...document.querySelector(arguments[0] + ' table').tBodies[arguments[2]].rows]
        .map(row => row.cells[arguments[1]].textContent)"""
    return browser.execute_script(script, section, place, body)


def head(browser, section, place):
    return browser.find_elements("css selector", f"{section} .block:first-of-type thead button")[place]


NASTY = [".0939 ± .0075", "1,234 GPU", ".5", "n/a", "30.8x", "-2 %", "oom", "10"]


def test_it_renders_with_names_as_text(opened):
    assert opened.title == "AdaptRec report"
    assert find(opened, "#s-nasty h3").text == f"{SCRIPT} {QUOTES}"
    assert find(opened, "#s-nasty .caption").text == BREAK
    assert find(opened, "#s-nasty tbody th").text == f"{SCRIPT} 0"
    shown = "return [...document.images].map(image => image.complete && image.naturalWidth)"
    assert opened.execute_script(shown) == [720, 720]
    assert not opened.find_elements("css selector", "main script, img[onerror]")


def test_a_click_sorts_by_number_and_back(opened):
    assert column(opened, "#s-nasty", 1) == NASTY
    button = head(opened, "#s-nasty", 1)
    button.click()
    assert column(opened, "#s-nasty", 1) == [
        "1,234 GPU", "30.8x", "10", ".5", ".0939 ± .0075", "-2 %", "n/a", "oom",
    ]  # fmt: skip
    state = "return arguments[0].parentElement.getAttribute('aria-sort')"
    assert opened.execute_script(state, button) == "descending"
    button.click()
    assert column(opened, "#s-nasty", 1) == [
        "-2 %", ".0939 ± .0075", ".5", "10", "30.8x", "1,234 GPU", "n/a", "oom",
    ]  # fmt: skip
    assert opened.execute_script(state, button) == "ascending"
    assert column(opened, "#s-nasty", 1, body=1) == [".0001"]
    button.click()
    assert column(opened, "#s-nasty", 1) == NASTY
    assert opened.execute_script(state, button) is None


def test_the_keyboard_sorts_and_names_go_by_letter(opened):
    before = column(opened, "#s-toy-minilm-fair", 0)
    head(opened, "#s-toy-minilm-fair", 0).send_keys("\n")
    assert column(opened, "#s-toy-minilm-fair", 0) == sorted(before)
    head(opened, "#s-toy-minilm-fair", 0).send_keys(" ")
    assert column(opened, "#s-toy-minilm-fair", 0) == sorted(before, reverse=True)
    recalls = [text for text in column(opened, "#s-toy-minilm-fair", 1) if text[0] == "."]
    head(opened, "#s-toy-minilm-fair", 1).click()
    assert [text for text in column(opened, "#s-toy-minilm-fair", 1) if text[0] == "."] == sorted(
        recalls, reverse=True
    )


def test_a_figure_opens_its_configuration_and_escape_closes_it(opened):
    find(opened, "#s-nasty td a").click()
    dialog = find(opened, "#dialog")
    assert dialog.is_displayed()
    assert find(opened, "#dialog-name").text == BREAK
    assert f"run --dataset '{SCRIPT}' {QUOTES}" in find(opened, "#dialog code").text
    assert find(opened, "#dialog li a").get_attribute("href").endswith("results/toy/%3Ci%3E/a%20b.json")
    find(opened, "#dialog-close").send_keys("\ue00c")
    assert not dialog.is_displayed()
    find(opened, "#s-nasty tbody th a").send_keys("\n")
    assert dialog.is_displayed()
    find(opened, "#dialog-close").click()
    assert not dialog.is_displayed()


def test_a_row_is_one_stop_of_the_tab_key(opened):
    rows = "return [...document.querySelectorAll('#s-nasty tbody tr')]"
    stops = opened.execute_script(rows + ".map(row => row.querySelectorAll('a:not([tabindex])').length)")
    assert stops == [*[1] * len(NASTY), 0]  # a bound has no configuration


def test_the_filter_leaves_rows_and_sections_that_match(opened):
    field = find(opened, "#filter")
    field.send_keys("FAIR ssna-mean")
    shown = "return [...document.querySelectorAll('.section tbody tr')].filter(r => r.offsetParent).length"
    assert opened.execute_script(shown) == 2
    assert find(opened, "#matches").text == "2 rows"
    assert not find(opened, "#s-nasty").is_displayed()
    assert not find(opened, "#overview").is_displayed()
    assert not find(opened, "nav a[href='#s-nasty']").is_displayed()
    field.clear()
    field.send_keys("x\b")
    assert find(opened, "#s-nasty").is_displayed()
    assert find(opened, "#matches").text == ""


def choose(browser, place, value):
    """Choose the option of this text, or write into the field, at a place among the choices of the board."""
    element = browser.find_elements("css selector", "#s-board .choices select, #s-board .choices input")[
        place
    ]
    if element.tag_name == "input":
        element.clear()
    element.send_keys(value)


def board_rows(browser):
    script = """return [...document.querySelectorAll('#s-board tbody tr')].filter(r => r.offsetParent)
        .map(r => r.cells[0].textContent)"""
    return browser.execute_script(script)


def test_a_reader_chooses_tables_and_the_most_that_a_row_may_cost(opened):
    everything = ["plain", SCRIPT, "slow"] * 2
    assert board_rows(opened) == everything
    choose(opened, 0, QUOTES)
    assert board_rows(opened) == everything[:3]
    assert not find(opened, "#s-board .block").is_displayed()
    assert find(opened, "#s-board .choices output").text == "3 rows"
    for most, left in (
        ("2h", ["plain", SCRIPT]), ("1.5m", ["plain"]), ("1,234", ["plain", SCRIPT]),
        ("7201", everything[:3]),
        ("much", everything[:3]), ("1s", []),
    ):  # fmt: skip
        choose(opened, 2, most)
        assert board_rows(opened) == left, most
        wrong = find(opened, "#s-board [data-limit='total cost'][aria-invalid]").get_attribute("aria-invalid")
        assert wrong == str(most == "much").lower()
    assert find(opened, "#s-board .choices").is_displayed(), "a reader can choose again"
    choose(opened, 2, "1d")
    choose(opened, 3, "1")
    assert board_rows(opened) == [SCRIPT, "slow"]
    find(opened, "#filter").send_keys("slow")
    assert board_rows(opened) == ["slow"]
    assert not find(opened, "#s-nasty").is_displayed()


def test_badges_and_downloads(opened):
    badges = (
        "return [...document.querySelectorAll('#s-board .badge')].map(b => b.className + ' ' + b.textContent)"
    )
    assert opened.execute_script(badges)[:3] == ["badge level L2", "badge local local", "badge level L3"]
    link = find(opened, "#s-board a[download]")
    assert link.get_attribute("href").startswith("file:///")
    assert link.get_attribute("href").endswith("/results/submitted/" + quote(f"{QUOTES}.zip"))
    opened.execute_script("arguments[0].addEventListener('click', e => e.preventDefault())", link)
    link.click()
    assert not find(opened, "#dialog").is_displayed(), "a download is no figure"


@pytest.mark.parametrize("width", [390, 320, 1280])
def test_the_page_never_scrolls_sideways_and_tables_do(opened, width):
    size(opened, width, 844)
    opened.get(opened.page)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    script = """const box = document.querySelector('#s-toy-minilm-fair .scroll');
        const label = box.querySelector('tbody th'), before = label.getBoundingClientRect().left;
        box.scrollLeft = 200;
        return [box.scrollLeft, label.getBoundingClientRect().left - before]"""
    if width < 600:
        assert opened.execute_script(script) == [200, 0]
        find(opened, "#s-toy-minilm-fair tbody th a").click()
        assert find(opened, "#dialog").is_displayed()
        assert opened.execute_script("return document.documentElement.scrollWidth") == width


def test_dark_and_print(opened):
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert opened.execute_script(colour) == "rgb(255, 255, 255)"
    size(opened, 1280, 1000, dark=True)
    assert sum(map(int, opened.execute_script(colour)[4:-1].split(","))) < 120
    size(opened, 1280, 1000, media="print", dark=True)
    assert opened.execute_script(colour) == "rgb(255, 255, 255)"
    assert not find(opened, "nav").is_displayed()
    assert find(opened, "#s-nasty table").is_displayed()
