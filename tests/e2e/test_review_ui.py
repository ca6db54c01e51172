"""The reviewer's whole way in MLflow's own pages, in a real browser, with nothing but the mouse."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from infra.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# Seconds. Only says when to give up: a flow run starts as a process of its own.
PATIENCE = 300

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no Chromium here: install the packages chromium and chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # for containers, where tests run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1500,1400",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.implicitly_wait(60)
    yield driver
    driver.quit()


class VersionPage:
    """MLflow's page of one model version, as a person uses it."""

    def __init__(self, browser: webdriver.Chrome, mlflow_uri: str, model: str, version: int):
        self.browser = browser
        self.address = f"{mlflow_uri}/#/models/{model}/versions/{version}"
        self.reopen()

    def reopen(self) -> None:
        self.browser.get("about:blank")  # an address that differs after # alone loads nothing
        self.browser.get(self.address)
        self.find("//*[text()='Tags']")

    def find(self, path: str) -> WebElement:
        return self.browser.find_element(By.XPATH, path)

    def shows(self, text: str) -> bool:
        return text in self.browser.find_element(By.TAG_NAME, "body").text

    def reopened_shows(self, text: str) -> bool:
        """The same once the page is loaded anew, with what has to be scrolled to in its tables."""
        self.reopen()
        return bool(self.browser.find_elements(By.XPATH, f"//*[contains(., '{text}')]"))

    def read_report(self) -> str:
        """Follows the link to the run, opens its report among the artifacts and reads it."""
        self.find("//a[contains(@href, '/runs/')]").click()
        self.find("//*[@role='tab'][.='Artifacts']").click()
        self.find("//*[text()='report']").click()
        self.find("//*[text()='report.html']").click()
        self.browser.switch_to.frame(self.find("//iframe"))
        text = self.find("//body[.//h1]").text
        self.browser.switch_to.default_content()
        return text

    def set_tag(self, name: str, value: str) -> None:
        self.find("//input[@placeholder='Name']").send_keys(name)
        self.find("//input[@placeholder='Value']").send_keys(value)
        self.find("//input[@placeholder='Value']/following::button[.='Add'][1]").click()
        self.find(f"//tr[contains(., '{name}')] | //*[@role='row'][contains(., '{name}')]")


def merge(queue, land, expert, task: str) -> int:
    """Lands an expert and gives the version of the candidate that waits for review."""
    from flows.continual_merge import continual_merge

    land(queue, task, expert(task))
    continual_merge(queue.name)
    (version,) = [
        v.version for v in queue.registry.merged.of(queue.name) if v.status == "candidate"
    ]
    return version


def wait_for_review(queue, version: int) -> str:
    """What the flow that a decision starts in the worker answers on the version."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := queue.registry.merged.get(queue.name, version).tags.review:
            return answer
        time.sleep(0.2)
    return ""


def champion(queue) -> int | None:
    aliases = queue.registry.client.get_registered_model(queue.name).aliases
    return int(aliases["champion"]) if "champion" in aliases else None


def test_a_reviewer_reads_and_decides_in_mlflow(
    stack: Settings, review_queue, serve, expert, land, browser: webdriver.Chrome
) -> None:
    queue = review_queue
    first = merge(queue, land, expert, "weather")
    page = VersionPage(browser, stack.mlflow_uri, queue.name, first)
    assert page.shows("this candidate may replace the deployed model")

    # While the page is open, a newer candidate takes the place of this one.
    second = merge(queue, land, expert, "food")
    with serve(queue):
        page.set_tag("approval_status", "approved")
        assert f"version {first} is superseded" in wait_for_review(queue, first)
    assert page.reopened_shows("Refused: ")
    assert page.shows(f"version {first} is superseded")
    assert champion(queue) is None

    page = VersionPage(browser, stack.mlflow_uri, queue.name, second)
    report = page.read_report()
    assert "weather" in report
    assert "food" in report
    page.reopen()
    with serve(queue):
        page.set_tag("approval_status", "approved")
        assert wait_for_review(queue, second).startswith("Promoted (1)")
    assert champion(queue) == second
    assert page.reopened_shows("Promoted (1)")
    assert page.reopened_shows("champion")

    # Before the next one is decided, another run changes what is deployed.
    third = merge(queue, land, expert, "sport")
    page = VersionPage(browser, stack.mlflow_uri, queue.name, third)
    again = queue.promotions.newest()
    changes = {"run_id": "another run", "reason": "meanwhile", "time": datetime.now(UTC)}
    fields = again.model_dump(exclude={"sequence", "previous", "frozen", "deployed_in"}) | changes
    queue.promotions.append(again, **fields)
    with serve(queue):
        page.set_tag("approval_status", "approved")
        assert "the deployed model has changed" in wait_for_review(queue, third)
    assert page.reopened_shows("the deployed model has changed")
    assert champion(queue) == second
    assert queue.registry.merged.get(queue.name, third).status == "superseded"
