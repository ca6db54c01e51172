"""Takes the pictures of docs/images/ from the stack that is up, once the demo has run in it.

make demo && .venv/bin/python docs/screenshots.py demo
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

import httpx
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from infra.settings import Settings

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1440, 1000
DRAWING_TIME = 4
"""Seconds for charts to be drawn after the page has said that it is there."""


class Camera:
    """A headless browser that photographs pages."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(argument)
        service = Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.implicitly_wait(60)

    def take(self, name: str, address: str, until: str, *, height: int = HEIGHT) -> None:
        """Photographs a page once it has the element of this XPath; height in pixels."""
        self.driver.set_window_size(WIDTH, height)
        self.driver.get("about:blank")  # an address that differs after # alone loads nothing
        self.driver.get(address)
        self.driver.find_element(By.XPATH, until)
        self._close_assistant()
        time.sleep(DRAWING_TIME)
        self.driver.save_screenshot(str(IMAGES / f"{name}.png"))

    def _close_assistant(self) -> None:
        """MLflow opens a chat panel over a quarter of the page."""
        self.driver.implicitly_wait(1)
        with contextlib.suppress(NoSuchElementException):
            self.driver.find_element(By.XPATH, "//button[@aria-label='Close']").click()
        self.driver.implicitly_wait(60)


def main(family: str) -> None:
    """Photographs report, version, history and run of a family."""
    settings = Settings.load()
    IMAGES.mkdir(exist_ok=True)
    mlflow = httpx.Client(
        base_url=f"{settings.mlflow_uri}/api/2.0/mlflow", auth=settings.mlflow_login
    )
    champion = (
        mlflow.get("/registered-models/alias", params={"name": family, "alias": "champion"})
        .raise_for_status()
        .json()["model_version"]
    )
    run = mlflow.get("/runs/get", params={"run_id": champion["run_id"]}).json()["run"]
    report = httpx.get(
        f"{settings.mlflow_uri}/get-artifact",
        params={"path": "report/report.html", "run_uuid": champion["run_id"]},
        auth=settings.mlflow_login,
    ).raise_for_status()
    tags = {tag["key"]: tag["value"] for tag in champion["tags"]}

    camera = Camera()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_bytes(report.content)
        camera.take("report", page.as_uri(), "//h1", height=1500)
    version = f"{settings.mlflow_uri}/#/models/{family}/versions/{champion['version']}"
    camera.take("mlflow-version", version, "//*[text()='Tags']")
    history = f"{settings.mlflow_uri}/#/experiments/{run['info']['experiment_id']}"
    camera.take(
        "mlflow-history",
        f"{history}/runs?compareRunsMode=CHART",
        "//*[contains(@class, 'main-svg')]",
    )
    address = settings.prefect_api.removesuffix("/api")
    camera.take(
        "prefect-run", f"{address}/runs/flow-run/{tags['merge.run-id']}", "//*[@role='tablist']"
    )
    camera.driver.quit()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
