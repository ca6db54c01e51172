"""Candidates that wait for a person, what the person does, and every refusal."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from tests.stories.world import FAMILY

pytestmark = pytest.mark.family(promotion="review")


def test_a_candidate_waits_for_review(deployed):
    deployed.land("food", 90)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
notice needs-review: reviews version 2 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 90.0 % against 50.0 % of the deployed model
    (+40.0 points) on 400 gate examples; with 95.0 % confidence it is not worse at all. food:
    keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.
food/1 (merging): Waits for review of version 2: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")
    assert deployed.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
> food: waits for review. Waits for review of version 2: set its tag approval_status to approved
    or rejected.\
""")
    assert deployed.types("status reviews") == snapshot("""\
> reviews: champion version 1, mode review
> Experts
> ┏━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┓
> ┃ expert            ┃ task    ┃ status  ┃ reason                                                                              ┃
> ┡━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┩
> │ reviews-weather/1 │ weather │ merged  │ Merged in version 1.                                                                │
> │ reviews-food/1    │ food    │ merging │ Waits for review of version 2: set its tag approval_status to approved or rejected. │
> └───────────────────┴─────────┴─────────┴─────────────────────────────────────────────────────────────────────────────────────┘
> Candidates that wait for review
> ┏━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━┓
> ┃ version ┃ experts           ┃ validation ┃ review ┃
> ┡━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━┩
> │ 2       │ reviews-weather/1 │ passed     │        │
> │         │ reviews-food/1    │            │        │
> └─────────┴───────────────────┴────────────┴────────┘
> Recent promotions
> ┏━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━┓
> ┃ no. ┃ time (UTC)       ┃ version ┃ action  ┃ decided by   ┃
> ┡━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━┩
> │ 1   │ TIME │ 1       │ promote │ policy: auto │
> └─────┴──────────────────┴─────────┴─────────┴──────────────┘\
""")
    assert deployed.description(2) == snapshot("""\
**Passed: this candidate may replace the deployed model.**

| task | role | base | expert | deployed | candidate | difference (at worst) | gain kept | flips | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| weather | old | 50.0 % | 90.0 % | 90.0 % | 90.0 % | 0.0 (−0.7) | 100 % | 0 | passed |
| food | new | 50.0 % | 90.0 % | 50.0 % | 90.0 % | +40.0 (+36.1) | 100 % | 0 | passed |

- weather: 90.0 % against 90.0 % of the deployed model (0.0 points) on 400 gate examples; with
    95.0 % confidence it loses less than 0.7 points, and 5.0 points may be lost.
- weather: keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 40.0 % must stay.
- food: 90.0 % against 50.0 % of the deployed model (+40.0 points) on 400 gate examples; with
    95.0 % confidence it is not worse at all.
- food: keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.

[Full report](MLFLOW/#/experiments/1/runs/ID/artifacts)

**To decide**, read the full report and then add the tag `approval_status` below, with the value
    `approved` or `rejected`.\
""")


def test_an_approval_promotes(candidate):
    assert candidate.types("approve reviews 2 --reason 'Reads well.'") == snapshot("""\
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Reads well.
food/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: Reads well.
log: reviews version 2 is deployed: Reads well.
version 2 reads in review: Promoted (2) at TIME UTC, decided by ada.
> 〃\
""")
    assert candidate.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_an_approval_in_mlflow_whose_webhook_was_lost_is_found_by_the_sweep(candidate):
    candidate.tag(FAMILY, 2, "approval_status", "approved")
    assert candidate.sweep() == snapshot("""\
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Approved in review.
food/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: Approved in review.
log: reviews version 2 is deployed: Approved in review.
version 2 reads in review: Promoted (2) at TIME UTC, decided by a person, by approval_status in
    MLflow.
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_rejection_settles_the_expert_until_it_is_released(candidate):
    assert candidate.types("reject reviews 2 --reason 'Odd flips'") == snapshot("""\
food/1: merging → rejected: Rejected in review of version 2 by ada: Odd flips.
version 2: candidate → rejected: 〃
version 2 reads in review: 〃
> 〃\
""")
    assert candidate.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")
    assert candidate.types("release reviews-food/1") == snapshot("""\
food/1: rejected → waiting: Released.
> reviews-food/1 is waiting again; the next merge takes it.\
""")
    assert candidate.sweep() == snapshot("""\
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 3: – → candidate
notice needs-review: reviews version 3 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 90.0 % against 50.0 % of the deployed model
    (+40.0 points) on 400 gate examples; with 95.0 % confidence it is not worse at all. food:
    keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.
food/1 (merging): Waits for review of version 3: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")


def test_a_newer_expert_supersedes_the_candidate(candidate):
    candidate.land("sport", 90)
    assert candidate.sweep() == snapshot("""\
sport/1: – → waiting
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food, sport: passed
version 3: – → candidate
version 2: candidate → superseded: Version 3 merges newer experts.
notice needs-review: reviews version 3 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 90.0 % against 50.0 % of the deployed model
    (+40.0 points) on 400 gate examples; with 95.0 % confidence it is not worse at all. food:
    keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay. sport:
    90.0 % against 50.0 % of the deployed model (+40.0 points) on 400 gate examples; with 95.0 %
    confidence it is not worse at all. sport: keeps 100.0 % of its expert's gain (+40.0 of +40.0
    points), where 50.0 % must stay.
food/1 (merging): Waits for review of version 3: set its tag approval_status to approved or
    rejected.
sport/1 (merging): 〃
> food, sport: waits for review. 〃\
""")
    candidate.tag(FAMILY, 2, "approval_status", "approved")
    assert candidate.types("promote reviews 2") == snapshot("""\
log: reviews version 2: Refused: version 2 is superseded, so it cannot be approved any more.
    Review the newest candidate, or roll back.
version 2 reads in review: Refused: version 2 is superseded, so it cannot be approved any more.
    Review the newest candidate, or roll back.
> 〃\
""")


def test_halves_wait_for_what_the_reviewer_decides_on_the_first(deployed):
    deployed.land("food", 90)
    deployed.land("sport", 90)
    deployed.scores("food", "sport", weather=70)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
food/1: waiting → merging
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food, sport: failed
log: food, sport do not pass together; trying halves
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
notice needs-review: reviews version 2 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 90.0 % against 50.0 % of the deployed model
    (+40.0 points) on 400 gate examples; with 95.0 % confidence it is not worse at all. food:
    keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.
food/1 (merging): Waits for review of version 2: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")
    deployed.types("approve reviews 2")
    deployed.scores("food", "sport", weather=90)
    assert deployed.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: failed
log: reviews: sport bounced: weather: 70.0 % against 90.0 % of the deployed model (−20.0 points)
    on 400 gate examples: worse, where at most 5.0 points may be lost. Try re-learning all
    coefficients instead of only the new ones, more calibration examples, or coefficients per
    row.
notice bounced: reviews: sport bounced: weather: 70.0 % against 90.0 % of the deployed model
    (−20.0 points) on 400 gate examples: worse, where at most 5.0 points may be lost. Try
    re-learning all coefficients instead of only the new ones, more calibration examples, or
    coefficients per row.
sport/1: merging → rejected: 〃
> sport: bounced. 〃\
""")


def test_a_newer_version_of_the_task_takes_the_place_of_one_in_review(candidate):
    candidate.land("food", 95, seed=1)
    assert candidate.sweep() == snapshot("""\
food/2: – → waiting
food/1: merging → held: reviews-food/2 was registered later for the same task.
version 2: candidate → superseded: reviews-food/1, which is new in it, is held: 〃
food/2: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 3: – → candidate
notice needs-review: reviews version 3 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 95.0 % against 50.0 % of the deployed model
    (+45.0 points) on 400 gate examples; with 95.0 % confidence it is not worse at all. food:
    keeps 100.0 % of its expert's gain (+45.0 of +45.0 points), where 50.0 % must stay.
food/2 (merging): Waits for review of version 3: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")


def test_a_candidate_is_not_approved_once_its_task_went_back_to_what_is_deployed(candidate):
    candidate.types(f"approve {FAMILY} 2")
    candidate.land("food", 91, seed=1)
    candidate.sweep()
    candidate.land("food", 90)
    assert candidate.sweep() == snapshot("""\
food/3: – → waiting
food/2: merging → held: reviews-food/3 was registered later for the same task.
version 3: candidate → superseded: reviews-food/2, which is new in it, is held: 〃
food/3: waiting → merged: Same content as reviews-food/1, which is deployed.
> No expert is waiting.\
""")
    assert candidate.types(f"approve {FAMILY} 3") == snapshot("""\
> Version 3 is superseded, so it cannot be approved any more. Review the newest candidate, or
    roll back.\
""")


def test_the_page_of_the_flow_run_tells_the_decision(candidate):
    candidate.sweep()
    assert candidate.page("reviews-relearn-decision") == snapshot("""\
**Passed: this candidate may replace the deployed model.**

| task | role | base | expert | deployed | candidate | difference (at worst) | gain kept | flips | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| weather | old | 50.0 % | 90.0 % | 90.0 % | 90.0 % | 0.0 (−0.7) | 100 % | 0 | passed |
| food | new | 50.0 % | 90.0 % | 50.0 % | 90.0 % | +40.0 (+36.1) | 100 % | 0 | passed |

- weather: 90.0 % against 90.0 % of the deployed model (0.0 points) on 400 gate examples; with
    95.0 % confidence it loses less than 0.7 points, and 5.0 points may be lost.
- weather: keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 40.0 % must stay.
- food: 90.0 % against 50.0 % of the deployed model (+40.0 points) on 400 gate examples; with
    95.0 % confidence it is not worse at all.
- food: keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.

[Full report](MLFLOW/#/experiments/1/runs/ID/artifacts)\
""")
    assert candidate.page("reviews-relearn-scores") == snapshot("""\
[{"task": "weather", "role": "old", "base": "50.0 %", "expert": "90.0 %", "deployed": "90.0 %",
    "candidate": "90.0 %", "difference (at worst)": "0.0 (\\u22120.7)", "gain kept": "100 %",
    "flips": "0", "verdict": "passed"}, {"task": "food", "role": "new", "base": "50.0 %",
    "expert": "90.0 %", "deployed": "50.0 %", "candidate": "90.0 %", "difference (at worst)":
    "+40.0 (+36.1)", "gain kept": "100 %", "flips": "0", "verdict": "passed"}]\
""")
    assert candidate.page("reviews-relearn-report") == snapshot(
        "[Report in MLflow](MLFLOW/#/experiments/1/runs/ID/artifacts)"
    )


def test_only_merges_take_their_turn_in_the_line_of_their_family(candidate):
    """What a person decides waits for no merge, nor does one who looks."""
    candidate.watch.turns.clear()
    for command in ("approve reviews 2", "audit reviews", "rollback reviews", "merge reviews"):
        candidate.types(command)
    assert candidate.watch.turns == ["supermerge-reviews"]


def test_an_approval_does_not_wait_for_a_merge_which_starts_over_on_what_it_made(candidate):
    candidate.land("sport", 90)
    candidate.given.while_learning = lambda: candidate.types("approve reviews 2")
    assert candidate.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food, sport: passed
log: the deployed model changed meanwhile; starting over on it
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 3: – → candidate
notice needs-review: reviews version 3 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 90.0 % against 90.0 % of the deployed model
    (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than 0.7 points, and
    5.0 points may be lost. food: keeps 100.0 % of its expert's gain (+40.0 of +40.0 points),
    where 40.0 % must stay. sport: 90.0 % against 50.0 % of the deployed model (+40.0 points) on
    400 gate examples; with 95.0 % confidence it is not worse at all. sport: keeps 100.0 % of
    its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.
sport/1 (merging): Waits for review of version 3: set its tag approval_status to approved or
    rejected.
> sport: waits for review. 〃\
""")
