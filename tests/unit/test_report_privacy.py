"""Privacy reports of real runs: the guarantee with its evidence, and nothing that it does not cover."""

import json
import math
from html.parser import HTMLParser

import pytest

import fedsec
from fedsec.accounting import PLDAccountant
from fedsec.errors import InvalidArgumentError
from fedsec.report import PrivacyReport

torch = pytest.importorskip("torch")

VOID = {"meta", "link", "br", "img", "input", "path", "use"}


class Page(HTMLParser):
    """Text and attributes of a page; fails when elements do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links = [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def federated(rounds=2, **options):
    model = torch.nn.Linear(3, 1)
    options = {"l2_clip_norm": 1.0, "noise_multiplier": 2.0, "target_delta": 1e-5, **options}
    federation = fedsec.Federation(model, num_clients=4, num_rounds=rounds, **options)
    reports = []
    for rnd in federation.rounds():
        for client in rnd.cohort[1:]:
            rnd.submit(client, rnd.model())
        reports.append(rnd.finish())
    return federation, reports


@pytest.fixture(scope="module")
def run():
    return federated()


def test_epsilon_is_the_accountants_and_rounded_up(run):
    record = json.loads(PrivacyReport.of(run[0]).json())
    relation = fedsec.NeighboringRelation.REPLACE_SPECIAL
    truth = PLDAccountant(neighboring_relation=relation).compose(fedsec.Gaussian(2.0), 2)
    lower, upper = truth.epsilon_interval(1e-5)
    assert (record["epsilon_lower"], record["epsilon"]) == (lower, upper)
    shown = f"{math.ceil(upper * 1e4) / 1e4:.4f}"
    assert f"at most epsilon = {shown} (delta = 1e-05)" in PrivacyReport.of(run[0]).html()
    assert record["unit"] == "client"
    assert record["charges"] == 2


def test_what_an_attack_can_do_is_said_from_the_curves(run):
    report = PrivacyReport.of(run[0])
    truth = PLDAccountant(neighboring_relation=fedsec.NeighboringRelation.REPLACE_SPECIAL)
    truth.compose(fedsec.Gaussian(2.0), 2)
    right = math.ceil(1000.0 * (0.5 + 0.5 * truth.advantage())) / 10.0
    assert report.tables["What it means"]["guessing at even odds"].endswith(f"at most {right:.1f} % of cases")
    found = math.ceil(1000.0 * (1.0 - truth.tradeoff(0.01))) / 10.0
    assert f"{found:.1f} %" in report.tables["What it means"]["an attack with 1 % false alarms"]


def test_the_page_stands_alone_and_escapes_what_it_is_given(run):
    pytest.importorskip("matplotlib")
    report = PrivacyReport.of(run[0], title="<b>A & B</b>", results={"<script>": "</td>"})
    text = report.html()
    page = Page(text)
    assert "<script" not in text
    assert "<b>" not in text
    assert "<b>A & B</b>" in page.text
    assert all(link.startswith("#") for link in page.links)
    assert text.count("<svg") == 3
    assert "@import" not in text
    assert "url(http" not in text


@pytest.mark.parametrize("suffix", ["html", "md", "json"])
def test_operator_figures_are_shown_on_demand_alone(run, suffix, tmp_path):
    federation, reports = run
    report = PrivacyReport.of(federation, rounds=reports)
    absent = f"1: {reports[0].operator_only.dropped[0]}"
    shut = report.write(tmp_path / f"shut.{suffix}").read_text()
    opened = report.write(tmp_path / f"open.{suffix}", include_operator_data=True).read_text()
    for word in ("survivors", "dropped", "bytes a client"):
        assert word not in shut
        assert word in opened
    assert absent not in shut
    assert absent in opened


def test_an_aborted_round_has_no_operator_figures(run):
    from fedsec.federated import RoundMetrics

    federation, reports = run
    aborted = RoundMetrics(round_id=9, epsilon=1.0, metrics={}, seconds=0.0, report=None)
    assert list(PrivacyReport.of(federation, rounds=[reports[0], aborted]).operator) == ["round 1"]


def test_a_ledger_leaves_its_hash(tmp_path):
    relation = fedsec.NeighboringRelation.REPLACE_SPECIAL
    ledger = fedsec.Ledger(
        tmp_path / "run.ledger", target_epsilon=9.0, target_delta=1e-5, neighboring_relation=relation
    )
    federation, _ = federated(ledger=ledger)
    report = PrivacyReport.of(federation, ledger=ledger)
    assert report.tables["Made with"]["ledger"] == f"2 entries, head {ledger.head}"
    assert ledger.head in report.html()


def test_training_is_reported_like_a_federation():
    x = torch.randn(64, 3)
    data = torch.utils.data.TensorDataset(x, x[:, 0].round())
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    privacy = fedsec.attach(
        model,
        optimizer,
        data,
        batch_size=16,
        l2_clip_norm=1.0,
        noise_multiplier=1.5,
        target_delta=1e-5,
        epochs=1,
    )
    before = PrivacyReport.of(privacy)
    assert before.curves is None
    assert "epsilon = 0.0000" in before.sentence
    for inputs, targets in privacy.loader():
        privacy.backward((model(inputs)[:, 0] - targets) ** 2)
        optimizer.step()
        optimizer.zero_grad()
    record = json.loads(PrivacyReport.of(privacy).json())
    assert record["epsilon"] == privacy.spent().epsilon
    assert record["charges"] == privacy.steps
    assert record["unit"] == "record"
    assert len(record["curves"]["epsilon_over_steps"]["steps"]) == privacy.steps


def test_what_cannot_be_reported_is_refused(run, tmp_path):
    plain, _ = federated(1, l2_clip_norm=None, noise_multiplier=None, target_delta=None)
    with pytest.raises(InvalidArgumentError, match="without noise"):
        PrivacyReport.of(plain)
    with pytest.raises(InvalidArgumentError, match=r"\.html"):
        PrivacyReport.of(run[0]).write(tmp_path / "report.pdf")
