"""Events as text: what can be written, what is refused, and that no text does anything else."""

import contextlib

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fedsec
from fedsec import Gaussian, Laplace, PoissonSampled, Repeated, cli
from fedsec.accounting import (
    ApproximateDP,
    Composed,
    DiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplace,
    NonPrivate,
    RandomAllocation,
    RandomizedResponse,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.cli.expressions import names_in, parse
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("Gaussian(1.1)", Gaussian(1.1)),
        (" \n Gaussian( noise_multiplier = 2 )", Gaussian(2.0)),
        ("Gaussian(1.1) * 10", Repeated(Gaussian(1.1), 10)),
        ("10 * Gaussian(1.1)", Repeated(Gaussian(1.1), 10)),
        ("Gaussian(2 * 3 / 4) * 2 * 3", Repeated(Repeated(Gaussian(1.5), 2), 3)),
        (
            "PoissonSampled(Gaussian(1.1), 256 / 60_000) * 3510",
            Repeated(PoissonSampled(Gaussian(1.1), 256 / 60_000), 3510),
        ),
        ("PoissonSampled(Laplace(z), b / 500)", PoissonSampled(Laplace(3.0), 0.1)),
        ("Composed([Gaussian(1), Laplace(2) * 2])", Composed([Gaussian(1.0), Repeated(Laplace(2.0), 2)])),
        ("Composed([])", Composed([])),
        ("DiscreteGaussian(4, 1, dimension=None)", DiscreteGaussian(4.0, 1.0)),
        ("DiscreteLaplace(2, sensitivity=1)", DiscreteLaplace(2.0, 1)),
        ("NonPrivate()", NonPrivate()),
    ],
)
def test_what_can_be_written(text, event):
    assert parse(text, {"z": 3.0, "b": 50}) == event


def test_names_are_what_is_not_called():
    assert names_in("PoissonSampled(Gaussian(z), q / n) * n") == {"z", "q", "n"}
    assert names_in("Gaussian(1)") == set()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", InvalidArgumentError, "must be an expression such as"),
        ("Gaussian(1", InvalidArgumentError, "must be an expression such as"),
        ("Gaussian(1.1); 2", InvalidArgumentError, "must be an expression such as"),
        ("x = 1", InvalidArgumentError, "must be an expression such as"),
        ("\0", InvalidArgumentError, "must be an expression such as"),
        ("(" * 1000, InvalidArgumentError, "must be an expression such as"),
        ("-" * 1900 + "1", InvalidArgumentError, r"must (not be nested more than 64 deep|be an expression)"),
        ("Composed(" * 65 + "[]" + ")" * 65, InvalidArgumentError, "not be nested more than 64 deep"),
        ("Gaussian(1)" + " * 1" * 65, InvalidArgumentError, "not be nested more than 64 deep"),
        ("1" * 2001, InvalidArgumentError, "at most 2000 characters, got 2001"),
        ("1.1", InvalidArgumentError, "must be an event such as"),
        ("[Gaussian(1)]", InvalidArgumentError, "must be an event such as"),
        ("gaussian(1)", InvalidArgumentError, "knows no 'gaussian'; there are ApproximateDP, Composed"),
        ("Event()", InvalidArgumentError, "knows no 'Event'"),
        ("RDPAccountant()", InvalidArgumentError, "knows no 'RDPAccountant'"),
        ("__import__('os')", InvalidArgumentError, "something else at character 12"),
        ("open(1)", InvalidArgumentError, "knows no 'open'"),
        ("Gaussian.__init__(1)", InvalidArgumentError, "something else at character 1"),
        ("Gaussian(1).noise_multiplier", InvalidArgumentError, "something else at character 1"),
        ("Gaussian(1)[0]", InvalidArgumentError, "something else"),
        ("Gaussian(2 ** 9)", InvalidArgumentError, "something else at character 10"),
        ("Gaussian(1) + Gaussian(1)", InvalidArgumentError, "something else"),
        ("[Gaussian(x) for x in [1]]", InvalidArgumentError, "something else"),
        ("(lambda: 1)()", InvalidArgumentError, "something else"),
        ("Gaussian(*[1])", InvalidArgumentError, "something else"),
        ("Gaussian(**z)", InvalidArgumentError, "Gaussian takes noise_multiplier: missing"),
        ("Gaussian('1')", InvalidArgumentError, "something else"),
        ("Gaussian(True)", InvalidArgumentError, "something else"),
        ("Gaussian(1j)", InvalidArgumentError, "something else"),
        ("Gaussian(x)", InvalidArgumentError, "must not hold 'x', which stands for nothing here"),
        ("Gaussian", InvalidArgumentError, "must not hold 'Gaussian'"),
        ("Gaussian()", InvalidArgumentError, "Gaussian takes noise_multiplier: missing a required argument"),
        (
            "Gaussian(1, 2)",
            InvalidArgumentError,
            "Gaussian takes noise_multiplier: too many positional arguments",
        ),
        ("Gaussian(sigma=1)", InvalidArgumentError, "Gaussian takes noise_multiplier: missing"),
        (
            "Gaussian(1, noise_multiplier=1)",
            InvalidArgumentError,
            "Gaussian takes noise_multiplier: multiple values",
        ),
        ("Gaussian(1 / 0)", InvalidArgumentError, "has no value: "),
        (f"Gaussian(1{'0' * 400} / 3)", InvalidArgumentError, "has no value: "),
        (f"Gaussian(1{'0' * 400} * 0.5)", InvalidArgumentError, "has no value: "),
        ("Gaussian(1) / 2", InvalidArgumentError, "must have a number where it has 'Gaussian"),
        ("Gaussian([1] * 2)", InvalidArgumentError, r"must have a number where it has '\[1\]'"),
        ("Gaussian(1e999)", InvalidArgumentError, "noise_multiplier must be positive and finite, got inf"),
        ("Gaussian(-1)", InvalidArgumentError, "noise_multiplier must be positive and finite, got -1.0"),
        ("Gaussian(None)", InvalidTypeError, "noise_multiplier must be a real number"),
        ("Gaussian([])", InvalidTypeError, "noise_multiplier must be a real number"),
        ("Gaussian(Gaussian(1))", InvalidTypeError, "noise_multiplier must be a real number"),
        ("Gaussian(1) * 2.0", InvalidTypeError, "count must be a whole number"),
        ("Gaussian(1) * 0", InvalidArgumentError, "count must be in"),
        ("-Gaussian(1)", InvalidArgumentError, "count must be in"),
        ("Gaussian(1) * Gaussian(1)", InvalidTypeError, "count must be a whole number"),
        ("Composed(Gaussian(1))", InvalidTypeError, "events must be a sequence of events"),
        ("PoissonSampled(1, 0.5)", InvalidTypeError, "event must be an event"),
    ],
)
def test_what_is_refused(text, error, words):
    with pytest.raises(error, match=words):
        parse(text, {"z": 1.0})


noise = st.floats(0.01, 100.0)
whole = st.integers(1, 1000)
mechanisms = st.one_of(
    st.builds(Gaussian, noise),
    st.builds(Laplace, noise),
    st.builds(DiscreteGaussian, noise, noise, st.none() | whole),
    st.builds(Skellam, noise, noise, st.none() | whole),
    st.builds(DiscreteGaussianSum, noise, whole, noise, st.none() | whole),
    st.builds(DiscreteLaplace, noise, whole),
    st.builds(RandomizedResponse, noise),
    st.builds(ApproximateDP, noise, st.floats(0.0, 1.0)),
    st.just(NonPrivate()),
)


def around(event):
    return st.one_of(
        st.builds(PoissonSampled, event, st.floats(0.0, 1.0)),
        st.builds(SampledWithoutReplacement, event, st.just(1000), whole),
        st.builds(RandomAllocation, event, st.just(1000), whole),
        st.builds(Repeated, event, whole),
        st.builds(Composed, st.lists(event, max_size=3)),
    )


@given(st.recursive(mechanisms, around, max_leaves=6))
def test_an_event_reads_back_from_its_own_description(event):
    text = repr(event)
    assume(len(text) <= 2000)
    assert parse(text, {}) == event


PIECES = st.sampled_from(
    [
        *("Gaussian(", "PoissonSampled(", "Composed(", "RandomAllocation(", "Repeated(", "NonPrivate()"),
        *(")", "(", "[", "]", ",", "*", "**", "/", "-", "=", ".", ":", "@", "'", '"', "#", "\\", "\n", " "),
        *("1", "0", "1e999", "10", "0.5", "2**53", "9" * 400, "None", "True", "z", "x", "event=", "count="),
        *(
            "lambda",
            "import os",
            "__class__",
            "{}",
            "f'{z}'",
            "\0",
            "\ud800",
            "é",
            "0777",
            "1is",
            "if",
            "else",
        ),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60))
@settings(max_examples=200)
def test_no_text_gets_through_but_as_an_event(text):
    for read in (names_in, lambda text: parse(text, {"z": 1.0})):
        with contextlib.suppress(FedsecError):
            assert isinstance(read(text), (fedsec.accounting.Event, set))


@given(text=st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_on_the_command_line_ends_in_a_trace(text, capfd):
    arguments = ["epsilon", "--accountant", "rdp", "--delta", "1e-5", "--event", text, "--json"]
    status = cli.main(arguments)
    printed = capfd.readouterr()
    assert status in (0, 2)
    if status == 2:
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert len(printed.err) < 500
