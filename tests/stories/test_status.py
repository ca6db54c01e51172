"""All families on one screen: a fault is named, and hides nothing but itself."""

from __future__ import annotations

from inline_snapshot import snapshot

from infra.events.metrics import Metrics
from infra.settings import Settings


def test_status_without_a_name_shows_every_family(deployed):
    families = Settings.load().families_dir
    text = (families / "reviews.yaml").read_text()
    (families / "pages.yaml").write_text(text.replace("name: reviews", "name: pages"))
    (families / "spoilt.yaml").write_text(text)
    deployed.land("food", 90)
    deployed.types("freeze reviews")
    assert deployed.types("status") == snapshot("""\
> Families
> ┏━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓
> ┃ family  ┃ champion ┃ since (UTC)      ┃ mode         ┃ experts             ┃ waits for review ┃
> ┡━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩
> │ pages   │ –        │ –                │ auto         │ –                   │ –                │
> │ reviews │ 1        │ TIME │ auto, frozen │ 1 merged, 1 waiting │ –                │
> │ spoilt  │ ?        │ ?                │ ?            │ ?                   │ ?                │
> └─────────┴──────────┴──────────────────┴──────────────┴─────────────────────┴──────────────────┘
> spoilt: STORY/families/spoilt.yaml: expected name: spoilt, found name: reviews. The file and
    the family in it must have one name.\
""")


def test_status_without_mlflow_shows_what_the_log_says(deployed):
    with deployed.mlflow_is_down():
        assert deployed.types("status") == snapshot("""\
> Families
> ┏━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓
> ┃ family  ┃ champion ┃ since (UTC)      ┃ mode ┃ experts ┃ waits for review ┃
> ┡━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩
> │ reviews │ 1        │ TIME │ auto │ ?       │ ?                │
> └─────────┴──────────┴──────────────────┴──────┴─────────┴──────────────────┘
> reviews: connection refused\
""")
        assert deployed.types("status reviews") == snapshot("""\
> reviews: champion version 1, mode auto
> Recent promotions
> ┏━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━┓
> ┃ no. ┃ time (UTC)       ┃ version ┃ action  ┃ decided by   ┃
> ┡━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━┩
> │ 1   │ TIME │ 1       │ promote │ policy: auto │
> └─────┴──────────────────┴─────────┴─────────┴──────────────┘
> reviews: connection refused\
""")


def test_a_damaged_log_hides_no_expert(deployed):
    log = deployed.queue.family.root / "promotions"
    deployed.queue.store.write(log / "00000001.json", b"{}")
    seen = deployed.types("status reviews")
    assert "reviews-weather/1" in seen
    assert "expected a promotion" in seen


def test_prometheus_sees_what_waits_what_was_decided_and_what_is_deployed(deployed):
    metrics = Metrics(Settings.load())
    metrics.look()
    deployed.land("food", 90)
    deployed.scores("food", weather=80)
    deployed.sweep()
    deployed.land("sport", 90)
    seen = metrics.look().decode().splitlines()
    deployed.types("freeze reviews")
    later = metrics.look().decode().splitlines()
    ours = [line for line in seen if line.startswith("supermerge_")]
    assert [
        line for line in ours if "timestamp" not in line and not line.endswith(" 0.0")
    ] == snapshot(
        [
            'supermerge_readable{family="reviews",part="log"} 1.0',
            'supermerge_readable{family="reviews",part="experts"} 1.0',
            'supermerge_readable{family="reviews",part="candidates"} 1.0',
            'supermerge_experts{family="reviews",status="waiting"} 1.0',
            'supermerge_experts{family="reviews",status="merged"} 1.0',
            'supermerge_experts{family="reviews",status="rejected"} 1.0',
            'supermerge_deployed_version{family="reviews"} 1.0',
            'supermerge_log_entries{family="reviews"} 1.0',
            'supermerge_verdicts_total{family="reviews",verdict="failed"} 1.0',
        ]
    )
    (waiting,) = (line for line in ours if line.startswith("supermerge_oldest_expert"))
    assert waiting.startswith(
        'supermerge_oldest_expert_timestamp_seconds{family="reviews",status="waiting"}'
    )
    assert {*later} - {*seen} >= {'supermerge_frozen{family="reviews"} 1.0'}
