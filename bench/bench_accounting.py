"""make bench: one epsilon and one calibration."""

from fedsec.measure.accounting import accountant, describe


def test_accountant(benchmark, capsys):
    result = benchmark.pedantic(accountant, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
