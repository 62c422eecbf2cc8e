"""The arrows between the rooms, read from the imports; and what `import fedsec` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fedsec"
EVERYWHERE = {"errors", "_checks"}

# Who may import whom (docs/architecture.md); every room may import errors and _checks.
MAY_IMPORT = {
    "__init__": {
        "accounting",
        "clipping",
        "distributed",
        "federated",
        "masks",
        "noise",
        "sampling",
        "secagg",
        "training",
    },
    "__main__": {"cli"},
    "errors": set(),
    "_checks": set(),
    "_kernels": {"_core"},
    "_slope": set(),
    "_sqlite": set(),
    "masks": {"_kernels"},
    "_exact": set(),
    "_laws": {"_exact"},
    "_bell": {"_exact", "_kernels", "_laws"},
    "noise": {"_bell", "_kernels", "_slope"},
    "sampling": {"_kernels", "masks"},
    "accounting": {"_kernels", "_slope", "_sqlite"},
    "secagg": {"masks", "_kernels", "_sqlite"},
    "distributed": {"_kernels", "_sqlite", "masks", "noise", "accounting"},
    "clipping": {"_kernels"},
    "federated": {
        "_kernels",
        "clipping",
        "distributed",
        "training",
        "sampling",
        "noise",
        "accounting",
        "secagg",
        "masks",
    },
    "training": {"_kernels", "clipping", "sampling", "noise", "accounting"},
    "integrations": {"_kernels", "accounting", "clipping", "distributed", "federated", "masks", "secagg"},
    "report": {"accounting"},
    "measure": {
        "_bell",
        "_kernels",
        "accounting",
        "clipping",
        "distributed",
        "federated",
        "masks",
        "noise",
        "secagg",
        "training",
    },
    "demo": {"sampling", "federated", "report"},
    "experiment": {"demo", "federated", "report"},
    "cli": {"__init__", "accounting", "demo", "experiment", "measure", "report", "secagg"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "fedsec":
                rooms |= {alias.name if alias.name != "__version__" else "__init__" for alias in node.names}
            elif (node.module or "").startswith("fedsec."):
                rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "fedsec":
                    rooms.add("__init__")
                elif alias.name.startswith("fedsec."):
                    rooms.add(alias.name.split(".")[1])
    return rooms


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_arrows(path):
    room = room_of(path)
    assert room in MAY_IMPORT, (
        f"a new room: say in the table and in docs/architecture.md what {room} may import"
    )
    assert imported_rooms(path) <= MAY_IMPORT[room] | EVERYWHERE | {room}


# Rooms within a room, and which others of its parts they lean on.
WITHIN = {
    "secagg": {"encoding": set(), "primitives": set(), "identity": {"primitives"}},
    "accounting": {"pairs": {"events", "integer_noise", "numbers", "rounding"}},
}


def parts_imported(path: Path, room: str) -> set[str]:
    """The parts of a room that one of its files imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[:2] == ["fedsec", room]:
            below = node.module.split(".")[2:3]
            parts |= set(below or [alias.name for alias in node.names])
    return parts


@pytest.mark.parametrize(("room", "within"), [(room, within) for room in WITHIN for within in WITHIN[room]])
def test_arrows_within_a_room(room, within):
    paths = sorted((PACKAGE / room / within).glob("*.py"))
    assert paths
    for path in paths:
        assert parts_imported(path, room) <= WITHIN[room][within] | {within}, path


def fresh_python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout


HEAVY = ("torch", "scipy.stats", "matplotlib", "sklearn")


@pytest.mark.parametrize(
    "statement",
    [
        "import fedsec",
        "from fedsec import accounting, distributed, masks, noise, secagg, errors",
        "import fedsec.cli",
    ],
)
def test_light_rooms_load_nothing_heavy(statement):
    loaded = fresh_python(f"{statement}; import sys; print(*sys.modules)").split()
    assert not [name for name in HEAVY if name in loaded]


def test_public_names_are_there():
    pytest.importorskip("torch")
    fresh_python("import fedsec; [getattr(fedsec, name) for name in fedsec.__all__]")


@pytest.mark.parametrize("room", ["clipping", "federated", "training"])
def test_without_torch_the_extra_is_named(room):
    code = f"import sys; sys.modules['torch'] = None; import fedsec; fedsec.{room}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "MissingExtraError" in run.stderr
    assert "pip install 'fedsec[torch]'" in run.stderr


def test_unknown_names_are_attribute_errors():
    import fedsec

    with pytest.raises(AttributeError, match="no_such_name"):
        fedsec.no_such_name  # noqa: B018
    assert set(fedsec.__all__) <= set(dir(fedsec))
