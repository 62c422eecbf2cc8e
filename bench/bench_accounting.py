"""make bench: accountants beside their peers, and random settings far beyond what training needs."""

from fedsec.measure import accounting


def _show(benchmark, capsys, measure, describe):
    result = benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")


def test_accountants_beside_their_peers(benchmark, capsys):
    _show(benchmark, capsys, accounting.accountant, accounting.describe)


def test_wide_draws(benchmark, capsys):
    _show(benchmark, capsys, accounting.draws, accounting.describe_draws)


def test_extreme_draws(benchmark, capsys):
    _show(benchmark, capsys, accounting.extreme_draws, accounting.describe_draws)
