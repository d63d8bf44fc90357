"""Numbers of a checkout's Python files: sizes, imports, circles, parameters. Standard library only; nothing is run.

    python tools/metrics.py [ROOT] [--json] [--lists] [--carriers A,B] [--rooms export,runtime,index]

The product is what the packages of ``pyproject.toml`` hold (``package-dir`` says where); ``benchmarks/`` and ``tests/``
are counted beside it.

An import is an edge to the module that it names. Circles are counted four times: of what runs at the top of modules; of
what runs at all; with ``if TYPE_CHECKING`` too; and so that a name which a package's ``__init__`` offers lazily, from a
table of names and modules, leads to the module behind it.
"""

import argparse
import ast
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

PRODUCT = "ctxdeploy"
ROOMS = ("export", "runtime", "index")
CORE = "core"
SHORT = 60  # lines of a small file
# Dataclasses that a photo's data passes through on every way, from its listing to its shard: the six that there should
# be, and those that there were before the restructuring. A name may have the end of its module before it.
CARRIERS = (
    "PhotoSource",
    "Pixels",
    "GraphOutputs",
    "PhotoDescriptors",
    "Aggregated",
    "Pending",
    "FileState",
    "Ticket",
    "decode.Photo",
    "Decoded",
    "LocalDescriptors",
    "Extracted",
    "Spooled",
    "photo.Photo",
    "Packed",
)
# They ride inside others.
VALUES = ("FileState", "LocalDescriptors")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One imported name: the module it stands in, the dotted target, where it stands."""

    target: str
    name: str | None
    line: int
    inside: bool
    typing: bool


@dataclass
class Module:
    """One file: its dotted name, lines, tree and imports."""

    name: str
    path: Path
    lines: int
    tree: ast.Module
    is_package: bool
    imports: list[Import] = field(default_factory=list)

    @property
    def package(self) -> str:
        """Dotted name of the package that it is in; of a package its own."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


# --- files


def package_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each package that ``pyproject.toml`` names; without it, of those below ``ctxdeploy``."""
    setup = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {}).get("setuptools", {})
    places, names = setup.get("package-dir", {}), setup.get("packages")
    if not isinstance(names, list):
        base = root / str(places.get("", "")) / PRODUCT
        inits = sorted(base.rglob("__init__.py"))
        return {".".join((PRODUCT, *path.parent.relative_to(base).parts)): path.parent for path in inits}
    return {name: root / _place(name, places) for name in names}


def _place(package: str, places: Mapping[str, str]) -> Path:
    parts = package.split(".")
    for count in range(len(parts), 0, -1):
        given = places.get(".".join(parts[:count]))
        if given is not None:
            return Path(given, *parts[count:])
    return Path(places.get("", ""), *parts)


def load_product(root: Path) -> dict[str, Module]:
    """Return the product's modules by their dotted names."""
    found: dict[str, Module] = {}
    for package, folder in package_folders(root).items():
        for path in sorted(folder.glob("*.py")):
            name = package if path.stem == "__init__" else f"{package}.{path.stem}"
            found[name] = load(name, path)
    return found


def load_folder(folder: Path) -> dict[str, Module]:
    """Return the modules below a folder that is not part of the product, by their paths."""
    paths = sorted(
        path for path in folder.rglob("*.py") if not {"work", "__pycache__"} & set(path.relative_to(folder).parts)
    )
    return {(name := path.relative_to(folder.parent).as_posix()): load(name, path) for path in paths}


def load(name: str, path: Path) -> Module:
    """Read one file."""
    text = path.read_text(encoding="utf-8")
    module = Module(name, path, text.count("\n"), ast.parse(text, str(path)), path.stem == "__init__")
    module.imports = list(_imports(module.tree, module.package, inside=False, typing=False))
    return module


def _imports(node: ast.AST, package: str, *, inside: bool, typing: bool) -> Iterator[Import]:
    """Yield the imports below a node, with whether they stand in a function and under ``if TYPE_CHECKING``."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, None, node.lineno, inside, typing)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
        target = ".".join(part for part in (base, node.module or "") if part)
        for alias in node.names:
            yield Import(target, alias.name, node.lineno, inside, typing)
    inner = inside or isinstance(node, Function | ast.Lambda)
    checked = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, package, inside=inner, typing=typing or child in checked)


# --- the graph


def resolve(entry: Import, modules: Mapping[str, Module]) -> str | None:
    """Return the product's module that an import names; None if it is another's."""
    if entry.name is not None and f"{entry.target}.{entry.name}" in modules:
        return f"{entry.target}.{entry.name}"
    return entry.target if entry.target in modules else None


def lazy_names(module: Module, modules: Mapping[str, Module]) -> dict[str, str]:
    """Return the names that a package imports on first use, with their modules: a dictionary of constants in it."""
    found: dict[str, str] = {}
    for node in module.tree.body if module.is_package else []:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for key, place in zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else ():
            if isinstance(key, ast.Constant) and isinstance(place, ast.Constant):
                names = (f"{module.name}.{str(place.value).lstrip('.')}", str(place.value))
                found |= {str(key.value): name for name in names if name in modules}
    return found


def graph(
    modules: Mapping[str, Module], *, inside: bool = True, typing: bool = False, doors: bool = False
) -> dict[str, set[str]]:
    """Return which modules each imports.

    Args:
        modules: the product.
        inside: what is imported inside functions too.
        typing: what is imported for types alone too.
        doors: where a name comes through a lazy table, the module behind it too.
    """
    lazy = {name: lazy_names(module, modules) for name, module in modules.items()} if doors else {}
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for name, module in modules.items():
        for entry in module.imports:
            target = resolve(entry, modules)
            if target is None or (entry.typing and not typing) or (entry.inside and not inside):
                continue
            behind = lazy.get(target, {}).get(entry.name or "")
            edges[name] |= {target} if behind is None else {target, behind}
        edges[name].discard(name)
    return edges


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module, largest first (Tarjan, without recursion)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for start in sorted(edges):
        if start in order:
            continue
        work = [(start, iter(sorted(edges[start])))]
        order[start] = low[start] = len(order)
        stack.append(start)
        while work:
            node, successors = work[-1]
            child = next(successors, None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    at = stack.index(node)
                    found.append(sorted(stack[at:]))
                    del stack[at:]
            elif child not in order:
                order[child] = low[child] = len(order)
                stack.append(child)
                work.append((child, iter(sorted(edges[child]))))
            elif child in stack:
                low[node] = min(low[node], order[child])
    return sorted((part for part in found if len(part) > 1), key=lambda part: (-len(part), part))


def single_importers(modules: Mapping[str, Module]) -> list[list[str]]:
    """Return modules (no packages, no entry points) that one module alone imports, with it."""
    importers: dict[str, set[str]] = {name: set() for name in modules}
    for name, module in modules.items():
        for entry in module.imports:
            target = resolve(entry, modules)
            if target is not None and target != name:
                importers[target].add(name)
    return [
        [name, next(iter(found))]
        for name, found in sorted(importers.items())
        if len(found) == 1 and not modules[name].is_package
    ]


def room_of(name: str, rooms: Sequence[str]) -> str:
    """Return the room of a module: one of ``rooms``, else the core."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in rooms else CORE


def bypasses(modules: Mapping[str, Module], rooms: Sequence[str]) -> list[list[str]]:
    """Return imports of a module file of another room: importer and line, module, room. Typing counts too."""
    found = set()
    for name, module in modules.items():
        for entry in module.imports:
            target = resolve(entry, modules)
            if target is None or modules[target].is_package or target == name:
                continue
            if target.startswith(f"{PRODUCT}.{CORE}."):  # everybody may
                continue
            if room_of(target, rooms) != room_of(name, rooms):
                kind = "typing" if entry.typing else "inside" if entry.inside else "top"
                found.add((f"{name}:{entry.line}", target, room_of(name, rooms), room_of(target, rooms), kind))
    return [list(row) for row in sorted(found)]


# --- what stands in the files


def functions(module: Module) -> list[Function]:
    """Return every function and method, nested ones too."""
    return [node for node in ast.walk(module.tree) if isinstance(node, Function)]


def sizes(modules: Iterable[Module]) -> dict[str, Any]:
    """Return files, lines, and lengths of functions."""
    modules = list(modules)
    lengths = sorted(
        ((node.end_lineno or 0) - node.lineno + 1, f"{module.name}:{node.name}")
        for module in modules
        for node in functions(module)
    )
    values = [length for length, _ in lengths]
    short = sum(module.lines < SHORT for module in modules)
    return {
        "files": len(modules),
        "lines": sum(module.lines for module in modules),
        "short_files": short,
        "short_share": round(short / max(len(modules), 1), 4),
        "functions": len(values),
        "function_median": median(values) if values else 0,
        "function_p95": values[min(len(values) - 1, int(0.95 * len(values)))] if values else 0,
        "function_max": list(lengths[-1]) if lengths else None,
        "imports_inside": imports_inside(modules),
        **annotations(modules),
    }


def imports_inside(modules: Iterable[Module]) -> dict[str, int]:
    """Return import statements inside functions: all, and those of the product's own modules."""
    statements = {
        (module.name, entry.line): entry for module in modules for entry in module.imports if entry.inside
    }.values()
    return {"all": len(statements), "own": sum(entry.target.split(".")[0] == PRODUCT for entry in statements)}


def annotations(modules: Iterable[Module]) -> dict[str, float]:
    """Return the shares of parameters (without self and cls) and of returns that have a type."""
    given, returns = [], []
    for module in modules:
        for node in functions(module):
            every = node.args
            named = [*every.posonlyargs, *every.args, *every.kwonlyargs]
            named += [extra for extra in (every.vararg, every.kwarg) if extra is not None]
            given += [a.annotation is not None for a in named if a.arg not in ("self", "cls")]
            returns.append(node.returns is not None)
    return {
        "annotated_parameters": round(sum(given) / max(len(given), 1), 4),
        "annotated_returns": round(sum(returns) / max(len(returns), 1), 4),
    }


def classes(modules: Mapping[str, Module]) -> dict[str, list[tuple[str, ast.ClassDef]]]:
    """Return the classes of every name, with their modules."""
    found: dict[str, list[tuple[str, ast.ClassDef]]] = {}
    for name, module in modules.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append((name, node))
    return found


def carriers(modules: Mapping[str, Module], names: Sequence[str]) -> list[str]:
    """Return where the dataclasses (and named tuples) of these names are defined."""
    found = []
    for wanted in dict.fromkeys(names):
        end, _, name = wanted.rpartition(".")
        for place, node in classes(modules).get(name, []):
            if _is_record(node) and f".{place}".endswith(f".{end}" if end else ""):
                found.append(f"{place}:{name}")
    return sorted(found)


def _is_record(node: ast.ClassDef) -> bool:
    marks = [*node.decorator_list, *node.bases]
    return any("dataclass" in ast.unparse(mark) or "NamedTuple" in ast.unparse(mark) for mark in marks)


def doubled(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Return the names of classes that are defined in several places."""
    return {name: [place for place, _ in found] for name, found in sorted(classes(modules).items()) if len(found) > 1}


def renames(modules: Iterable[Module]) -> list[str]:
    """Return the calls that put a file in another's place.

    Those are ``os.replace`` and ``os.rename``, and methods of these names with one argument, which strings do not have.
    """
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            by_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
            called = node.func.attr in ("replace", "rename", "renames") and len(node.args) == (2 if by_os else 1)
            if called and (by_os or not node.keywords):
                found.append(f"{module.name}:{node.lineno}: {ast.unparse(node)}")
    return sorted(found)


# --- the command line


@dataclass(frozen=True)
class Scope:
    """What finds the options behind a name: the module it stands in, and all of them."""

    module: Module
    modules: Mapping[str, Module]

    def find(self, name: str) -> "tuple[Scope, ast.stmt] | None":
        """Return the statement that defines a name, here or where it is imported from."""
        for node in self.module.tree.body:
            if isinstance(node, Function) and node.name == name:
                return self, node
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return self, node
        for entry in self.module.imports:
            if entry.name == name and entry.target in self.modules and not entry.typing:
                return Scope(self.modules[entry.target], self.modules).find(name)
        return None


def is_click(node: ast.AST, kind: str) -> bool:
    """Return whether a node calls ``click.<kind>`` (or a group's ``.command``)."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == kind


def parameters(node: ast.AST, scope: Scope, seen: frozenset[str] = frozenset()) -> Counter[str]:
    """Count options and arguments that a decorator, or what it names, adds to a command."""
    counted: Counter[str] = Counter()
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and (is_click(part, "option") or is_click(part, "argument")):
            kind = part.func.attr if isinstance(part.func, ast.Attribute) else ""
            literal = bool(part.args) and isinstance(part.args[0], ast.Constant)
            counted[f"{kind}s"] += 1 if literal else _rows(node)
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id not in seen:
            found = scope.find(part.id)
            seen |= {part.id}
            if found is not None:
                counted += parameters(found[1], found[0], seen)
    return counted


def _rows(node: ast.AST) -> int:
    """Return how many rows of a table of options there are: tuples that begin with a flag."""
    return sum(
        isinstance(part, ast.Tuple)
        and bool(part.elts)
        and isinstance(part.elts[0], ast.Constant)
        and str(part.elts[0].value).startswith("-")
        for part in ast.walk(node)
    )


def commands(modules: Mapping[str, Module]) -> dict[str, dict[str, int]]:
    """Return options and arguments of each command, without ``--help`` and ``--version``."""
    found = {}
    for name, module in modules.items():
        scope = Scope(module, modules)
        for node in module.tree.body:
            if not isinstance(node, Function) or not any(is_click(d, "command") for d in node.decorator_list):
                continue
            counted: Counter[str] = Counter()
            for decorator in node.decorator_list:
                if not is_click(decorator, "command"):
                    counted += parameters(decorator, scope)
            label = f"{name.rpartition('.')[2]} {_command_name(node)}"
            found[label] = {"options": counted["options"], "arguments": counted["arguments"]}
    return found


def _command_name(node: Function) -> str:
    call = next(d for d in node.decorator_list if is_click(d, "command"))
    given = call.args[0] if isinstance(call, ast.Call) and call.args else None
    return str(given.value) if isinstance(given, ast.Constant) else node.name


# --- all of it


def product_facts(modules: Mapping[str, Module], names: Sequence[str], rooms: Sequence[str]) -> dict[str, Any]:
    """Return what is counted of the product alone."""
    return {
        "root_modules": sorted(n for n in modules if n.count(".") == 1 and not modules[n].is_package),
        "circles_top": circles(graph(modules, inside=False)),
        "circles_running": circles(graph(modules)),
        "circles_with_typing": circles(graph(modules, typing=True)),
        "circles_through_doors": circles(graph(modules, typing=True, doors=True)),
        "single_importers": single_importers(modules),
        "bypasses": bypasses(modules, rooms),
        "carriers": carriers(modules, names),
        "doubled_classes": doubled(modules),
        "renames": renames(modules.values()),
        "commands": commands(modules),
    }


def measure(root: Path, names: Sequence[str], rooms: Sequence[str]) -> dict[str, Any]:
    """Return every number of a checkout."""
    product = load_product(root)
    parts: dict[str, Any] = {"product": {**sizes(product.values()), **product_facts(product, names, rooms)}}
    packages: dict[str, list[Module]] = {}
    for name, module in product.items():
        packages.setdefault(room_of(name, rooms), []).append(module)
    parts["rooms"] = {room: sizes(found) for room, found in sorted(packages.items())}
    for folder in ("benchmarks", "tests"):
        found = load_folder(root / folder)
        parts[folder] = {**sizes(found.values()), "renames": renames(found.values())}
    return parts


CIRCLES = {
    "circles_top": "import circles, at the top of modules",
    "circles_running": "import circles, and inside functions",
    "circles_with_typing": "import circles, and for types alone",
    "circles_through_doors": "import circles, and through lazy doors",
}


def rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines of the product's own table."""
    crossing = Counter(f"{source}→{target}" for _, _, source, target, _ in facts["bypasses"])
    kinds = Counter(kind for *_, kind in facts["bypasses"])
    options = {name: sum(counted.values()) for name, counted in facts["commands"].items()}
    yield "modules at the root", str(len(facts["root_modules"]))
    for key, text in CIRCLES.items():
        yield text, f"{len(facts[key])} (of {', '.join(str(len(c)) for c in facts[key]) or 'no'} modules)"
    yield "modules with one importer", str(len(facts["single_importers"]))
    yield "imports that bypass a door", f"{len(facts['bypasses'])} ({_listed(crossing)}; {_listed(kinds)})"
    values = sum(found.rpartition(":")[2] in VALUES for found in facts["carriers"])
    yield "carriers of a photo", f"{len(facts['carriers'])} ({values} of them values inside others)"
    yield "class names defined twice", f"{len(facts['doubled_classes'])} ({', '.join(facts['doubled_classes'])})"
    yield "temp-and-rename sites", str(len(facts["renames"]))
    yield "parameters of commands", f"{sum(options.values())} in {len(options)} ({_listed(options)})"


def _listed(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items(), key=lambda item: -item[1]))


def table(measured: Mapping[str, Any]) -> str:
    """Return the numbers for people."""
    columns = {"product": measured["product"], **measured["rooms"]}
    columns |= {name: measured[name] for name in ("benchmarks", "tests")}
    keys = {
        "files": "files",
        "lines": "lines",
        "short_share": f"share of files under {SHORT} lines",
        "functions": "functions",
        "function_median": "function lines, median",
        "function_p95": "function lines, p95",
        "function_max": "function lines, max",
        "imports_inside": "imports in functions (own)",
        "annotated_parameters": "parameters with a type",
        "annotated_returns": "returns with a type",
    }
    lines = [f"{'':34}" + "".join(f"{name:>12}" for name in columns)]
    for key, text in keys.items():
        lines.append(f"{text:34}" + "".join(f"{_cell(key, column[key]):>12}" for column in columns.values()))
    lines += ["", *(f"{text + ':':50} {value}" for text, value in rows(measured["product"]))]
    return "\n".join(lines) + "\n"


def _cell(key: str, value: Any) -> str:
    if key == "imports_inside":
        return f"{value['all']} ({value['own']})"
    if key == "function_max":
        return "-" if value is None else str(value[0])
    return f"{value:.1%}" if isinstance(value, float) and value <= 1 else f"{value:,}"


def lists(facts: Mapping[str, Any]) -> str:
    """Return the product's findings one by one."""
    lines = []
    for key in (*CIRCLES, "single_importers", "carriers", "renames"):
        lines += [f"\n{key}:", *("  " + (" ".join(row) if isinstance(row, list) else row) for row in facts[key])]
    lines += ["\ndoubled_classes:", *(f"  {n}: {' '.join(p)}" for n, p in facts["doubled_classes"].items())]
    lines += ["\nbypasses:", *("  " + " ".join(row) for row in facts["bypasses"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--lists", action="store_true", help="circles, carriers and the rest one by one")
    parser.add_argument("--carriers", default=",".join(CARRIERS), help="class names, with commas between them")
    parser.add_argument("--rooms", default=",".join(ROOMS), help="subpackages of ctxdeploy; the rest is the core")
    given = parser.parse_args()
    measured = measure(given.root, given.carriers.split(","), given.rooms.split(","))
    if given.json:
        sys.stdout.write(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
        return
    sys.stdout.write(table(measured))
    if given.lists:
        sys.stdout.write(lists(measured["product"]))


if __name__ == "__main__":
    main()
