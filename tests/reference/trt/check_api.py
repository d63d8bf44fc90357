#!/usr/bin/env python3
# ruff: noqa: C901
"""Check Python sources against a recorded TensorRT Python API, without TensorRT installed.

    python check_api.py --api api-11.4.json [--api api-10.16.json] [--mode all|any] FILE_OR_DIR...
    python check_api.py --self-test

Checked are attribute chains on the module (`trt.BuilderFlag.TF32`), attributes and methods of objects
whose type is evident (made by `trt.X(...)`, returned by a method with a known return type, kept in
`self.x`, annotated `trt.X`), keyword names and argument counts of calls, assignments to read-only
attributes, and the argument counts of methods that override a TensorRT interface. The module may be
imported, or come from importlib.import_module("tensorrt"), pytest.importorskip("tensorrt"), a helper
function that imports and returns it, or a parameter named by --alias.

With several --api files, --mode all (the default) wants every name in each of them, and --mode any is
content with a name that one of them has. Names behind `if hasattr(trt.X, "NAME")`, inside a `try` that
catches AttributeError, or on a line ending in `# trt-api: ignore` are not reported. The exit code is 1
if anything was reported, 2 if a file could not be read or parsed.
"""

import argparse
import ast
import difflib
import json
import pathlib
import sys

IGNORE = "# trt-api: ignore"
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp, ast.Lambda)


class Api:
    """One listing. Entries are keyed 'Builder', 'plugin.TensorDesc', 'ILogger.Severity'."""

    def __init__(self, path):
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        self.package, self.version = data["package"], data["version"]
        self.modules, self.entries = {self.package: ("", data["names"])}, {}
        for name, found in data["submodules"].items():
            self.modules[f"{self.package}.{name}"] = (f"{name}.", found)
        for prefix, found in self.modules.values():
            self.entries.update({prefix + name: entry for name, entry in found.items()})
        for cls, entry in list(self.entries.items()):
            nested = entry.get("members", {}).items()
            self.entries.update({f"{cls}.{name}": e for name, e in nested if e["kind"] == "enum"})

    def members(self, key):
        """All members of a class, its bases' included."""
        entry, found = self.entries.get(key, {}), {}
        for base in entry.get("bases", []):
            found.update(self.members(key.rpartition(".")[0] + "." + base if key.startswith("plugin.") else base))
        return {**found, **entry.get("members", {})}

    def instance(self, key):
        return ("inst", key) if self.entries.get(key, {}).get("kind") in ("class", "enum") else None


class Checker:
    """Walks one file. A type is (module, dotted), (class, key), (inst, key), (member, key, entry),
    (self, class node), (func, node, scopes), or None where nothing is known."""

    def __init__(self, api, filename, source, aliases=()):
        self.api, self.filename, self.aliases = api, filename, aliases
        self.tree = ast.parse(source, filename)
        self.quiet = {i for i, line in enumerate(source.splitlines(), 1) if line.rstrip().endswith(IGNORE)}
        self.problems, self.guarded, self.lenient, self.pending, self.attrs = {}, set(), 0, [], {}

    def run(self):
        self.block(self.tree.body, [dict.fromkeys(self.aliases, ("module", self.api.package))], None)
        while self.pending:  # function bodies come last: they may use names defined further down
            node, scopes, owner = self.pending.pop(0)
            self.function(node, scopes, owner)
        return self.problems

    def report(self, node, name, text, known=()):
        if node.lineno in self.quiet or self.lenient or name in self.guarded:
            return
        close = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(known), 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        self.problems[(self.filename, node.lineno, node.col_offset + 1, name)] = text + hint

    # ---- statements
    def block(self, body, scopes, owner):
        for node in body:
            self.statement(node, scopes, owner)

    def statement(self, node, scopes, owner):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imports(node, scopes)
        elif isinstance(node, DEFS):
            for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]:
                self.type_of(part, scopes)
            scopes[-1][node.name] = ("func", node, list(scopes))
            self.pending.append((node, list(scopes), owner))
        elif isinstance(node, ast.ClassDef):
            for base in [self.type_of(b, scopes) for b in node.bases]:
                if base and base[0] == "class":
                    self.overrides(node, base[1])
            scopes[-1][node.name], self.attrs[node] = None, {}
            self.block(node.body, [*scopes, {}], node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            kind = self.type_of(node.value, scopes) if node.value else None
            if isinstance(node, ast.AnnAssign):
                kind = self.annotation(node.annotation, scopes) or kind
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.assign(target, kind, scopes)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                kind = self.type_of(item.context_expr, scopes)
                if item.optional_vars is not None:
                    self.assign(item.optional_vars, kind if kind and kind[0] == "inst" else None, scopes)
            self.block(node.body, scopes, owner)
        elif isinstance(node, ast.If):
            self.type_of(node.test, scopes)
            before, self.guarded = self.guarded, self.guarded | self.guards(node.test, scopes)
            self.block(node.body, scopes, owner)
            self.guarded = before
            self.block(node.orelse, scopes, owner)
        elif isinstance(node, ast.Try):
            caught = {n.id for h in node.handlers if h.type for n in ast.walk(h.type) if isinstance(n, ast.Name)}
            self.lenient += "AttributeError" in caught
            self.block(node.body, scopes, owner)
            self.lenient -= "AttributeError" in caught
            for part in [*(h.body for h in node.handlers), node.orelse, node.finalbody]:
                self.block(part, scopes, owner)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.type_of(child, scopes)
                elif isinstance(child, ast.stmt):
                    self.statement(child, scopes, owner)
                else:
                    self.block(getattr(child, "body", []), scopes, owner)  # match cases
            if isinstance(node, (ast.For, ast.AsyncFor)):
                self.assign(node.target, None, scopes)

    def imports(self, node, scopes):
        for item in node.names:
            if isinstance(node, ast.Import):
                if item.name in self.api.modules:
                    name = item.asname or self.api.package
                    scopes[-1][name] = ("module", item.name if item.asname else self.api.package)
                elif item.name.split(".")[0] == self.api.package:
                    self.report(node, item.name, f"no module {item.name}")
            elif node.level == 0 and node.module in self.api.modules and item.name != "*":
                scopes[-1][item.asname or item.name] = self.member(("module", node.module), item.name, node)

    def function(self, node, scopes, owner):
        args = node.args
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
        local = {a.arg: self.annotation(a.annotation, scopes) for a in every if a.arg not in self.aliases}
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
        if owner is not None and args.args and not static:
            local[args.args[0].arg] = ("self", owner)
        self.annotation(node.returns, scopes)
        self.block(node.body, [*scopes, local], None)

    def assign(self, target, kind, scopes):
        if isinstance(target, ast.Name):
            scopes[-1][target.id] = kind
        elif isinstance(target, (ast.Tuple, ast.List)):
            for item in target.elts:
                self.assign(item, None, scopes)
        elif isinstance(target, ast.Attribute):
            base = self.type_of(target.value, scopes)
            if base and base[0] == "self":
                self.attrs[base[1]].setdefault(target.attr, kind)
            elif base and base[0] == "inst" and target.attr == "__class__":
                if isinstance(target.value, ast.Name):  # layer.__class__ = trt.IResizeLayer
                    scopes[-1][target.value.id] = ("inst", kind[1]) if kind and kind[0] == "class" else None
            elif base and base[0] == "inst":
                got = self.member(base, target.attr, target, raw=True)
                if got and got.get("writable") is False:
                    name = f"{base[1]}.{target.attr}"
                    self.report(target, name, f"{name} is read-only")
        else:
            self.type_of(target.value if isinstance(target, ast.Starred) else target, scopes)

    def guards(self, test, scopes):
        names = set()
        for call in ast.walk(test):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "hasattr" and len(call.args) == 2:
                base, attr = self.type_of(call.args[0], scopes), call.args[1]
                if base and base[0] in ("module", "class", "inst") and isinstance(attr, ast.Constant):
                    names.add(self.full(base, attr.value))
        return names

    def overrides(self, node, key):
        known = self.api.members(key)
        for item in node.body:
            if not isinstance(item, DEFS) or item.name.startswith("__") or item.args.vararg:
                continue
            sigs = known.get(item.name, {}).get("signatures") or []
            if not sigs or "Capsule" in str(sigs):  # buffers reach Python in another form
                continue
            total = len(item.args.posonlyargs + item.args.args) - 1
            counts = sorted({len(s["params"]) for s in sigs})
            if not any(total - len(item.args.defaults) <= n <= total for n in counts):
                text = f"{key}.{item.name} is called with {counts[-1]} arguments, this takes {total}"
                self.report(item, f"{key}.{item.name}()", text)

    # ---- types
    def full(self, base, attr):
        prefix = base[1] if base[0] == "module" else f"{self.api.package}.{base[1]}"
        return f"{prefix}.{attr}"

    def member(self, base, attr, node, raw=False):
        """Type of base.attr (its entry if raw); reported if the API has no such name."""
        if attr.startswith("__") and attr.endswith("__"):
            return None
        if base[0] == "module":
            if f"{base[1]}.{attr}" in self.api.modules:
                return ("module", f"{base[1]}.{attr}")
            prefix, known = self.api.modules[base[1]]
            key = prefix + attr
        else:
            entry, key = self.api.entries[base[1]], f"{base[1]}.{attr}"
            known = self.api.members(base[1])
            if entry["kind"] == "enum":
                if base[0] == "class" and attr in entry["values"]:
                    return ("inst", base[1])
                known = {**dict.fromkeys(entry["values"]), **known, "name": None, "value": None}
        if attr not in known:
            self.report(node, self.full(base, attr), f"unknown name {self.full(base, attr)}", known)
            return None
        entry = known[attr] or {"kind": "value"}
        if raw:
            return entry
        if entry["kind"] in ("class", "enum"):
            return ("class", key)
        if entry["kind"] in ("property", "value"):  # what the user can set may be the user's own subclass
            kind = self.api.instance(entry.get("type", ""))
            settable = entry.get("writable") and kind and self.api.entries[kind[1]]["kind"] == "class"
            return None if settable else kind
        return None if entry["kind"] == "namespace" else ("member", key, entry)

    def annotation(self, node, scopes):
        """Type of a value annotated `trt.X`, `"trt.X"`, `trt.X | None` or `Optional[trt.X]`."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                inner = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return None
            for sub in ast.walk(inner):
                ast.copy_location(sub, node)
            return self.annotation(inner, scopes)
        if isinstance(node, ast.BinOp):
            left, right = (self.annotation(side, scopes) for side in (node.left, node.right))
            return left or right
        if isinstance(node, ast.Subscript):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            kinds = [self.annotation(part, scopes) for part in parts]
            return kinds[0] if ast.unparse(node.value).endswith("Optional") else None
        kind = self.type_of(node, scopes) if node is not None else None
        return ("inst", kind[1]) if kind and kind[0] == "class" else None

    def type_of(self, node, scopes):
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            base = self.type_of(node.value, scopes)
            if base and base[0] == "self":
                return self.attrs[base[1]].get(node.attr)
            return self.member(base, node.attr, node) if base and base[0] in ("module", "class", "inst") else None
        if isinstance(node, ast.Call):
            return self.call(node, scopes)
        if isinstance(node, ast.NamedExpr):
            scopes[-1][node.target.id] = kind = self.type_of(node.value, scopes)
            return kind
        if isinstance(node, ast.Subscript):
            base = self.type_of(node.value, scopes)
            self.type_of(node.slice, scopes)
            item = self.api.members(base[1]).get("__getitem__") if base and base[0] == "inst" else None
            return self.returned(item) if item else None
        if isinstance(node, SCOPES):
            bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            bound |= {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
            scopes = [*scopes, dict.fromkeys(bound)]
        kinds = [self.type_of(c, scopes) for c in ast.iter_child_nodes(node)]
        if isinstance(node, (ast.IfExp, ast.BoolOp)):
            kinds = kinds[-2:] if isinstance(node, ast.IfExp) else kinds[1:]
            return kinds[0] if all(k == kinds[0] for k in kinds) else None
        return None

    def returned(self, entry):
        kinds = {s.get("returns") for s in entry.get("signatures", [])}
        return self.api.instance(kinds.pop() or "") if len(kinds) == 1 else None

    def call(self, node, scopes):
        func, text = self.type_of(node.func, scopes), ast.unparse(node.func)
        for part in node.args + node.keywords:
            self.type_of(part, scopes)
        literal = [a.value if isinstance(a, ast.Constant) else None for a in node.args]
        if text.split(".")[-1] in ("import_module", "__import__", "importorskip") and literal:
            return ("module", literal[0]) if literal[0] in self.api.modules else None
        if text == "getattr" and len(literal) == 2 and isinstance(literal[1], str):
            base = self.type_of(node.args[0], scopes)
            return self.member(base, literal[1], node) if base and base[0] in ("module", "class", "inst") else None
        if func is None or func[0] not in ("func", "class", "member"):
            return None
        if func[0] == "func":
            return self.user_function(*func[1:])
        if func[0] == "class":
            if self.api.entries[func[1]]["kind"] == "class":
                self.arguments(node, func[1], self.api.members(func[1]).get("__init__", {}), 0)
            return ("inst", func[1])
        base = self.type_of(node.func.value, scopes) if isinstance(node.func, ast.Attribute) else None
        unbound = bool(base and base[0] == "class" and not func[2].get("static"))
        self.arguments(node, func[1], func[2], unbound)
        return self.returned(func[2])

    def user_function(self, node, scopes):
        if node.returns is not None:
            return self.annotation(node.returns, scopes)
        local = dict.fromkeys(self.aliases, ("module", self.api.package))
        for sub in ast.walk(node):  # def load(): import tensorrt; return tensorrt
            if isinstance(sub, ast.Import):
                self.imports(sub, [local])
        values = [s.value for s in ast.walk(node) if isinstance(s, ast.Return)]
        kinds = {local.get(v.id) if isinstance(v, ast.Name) else None for v in values}
        return kinds.pop() if len(kinds) == 1 else None

    def arguments(self, node, name, entry, unbound):
        spread = any(isinstance(a, ast.Starred) for a in node.args)
        open_end = spread or any(k.arg is None for k in node.keywords)
        given = {k.arg for k in node.keywords if k.arg}
        count, why, known = len(node.args) - unbound, [], set()
        for params in (s["params"] for s in entry.get("signatures", [])):
            names = [p[0] for p in params]
            known.update(names)
            needed = {p[0] for p in params[0 if spread else max(count, 0) :] if len(p) < 3} - given
            if any(n.startswith("*") for n in names):
                return
            if given - set(names):
                why.append(f"no argument {min(given - set(names))!r}")
            elif count > len(params):
                why.append(f"takes {len(params)} arguments, {count} given")
            elif needed and not open_end:
                why.append(f"missing argument {min(needed)!r}")
            else:
                return
        if why:
            self.report(node, f"{self.api.package}.{name}()", f"{name}(): {why[0]}")


def check(apis, paths, mode, aliases):
    lines, bad = {}, 0
    for path in paths:
        try:
            source = path.read_text(encoding="utf-8")
            results = [(api, Checker(api, str(path), source, aliases).run()) for api in apis]
        except (OSError, SyntaxError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            bad = 2
            continue
        for key in {key for _, problems in results for key in problems}:
            hits = [(api.version, problems[key]) for api, problems in results if key in problems]
            if mode == "all" or len(hits) == len(apis):
                where = f"{key[0]}:{key[1]}:{key[2]}"
                lines[key] = f"{where}: {hits[0][1]} [{apis[0].package} {', '.join(v for v, _ in hits)}]"
    return [lines[key] for key in sorted(lines)], bad


SELF_TEST = """\
import tensorrt as trt
from tensorrt import BuilderFlag as BF, Buildr                                             # bad
import tensorrt.plugin as trtp
log = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
old = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))   # bad
config = builder.create_builder_config()
config.set_flag(BF.FP16)                                                                   # bad
config.set_flag(trt.BuilderFlag.TF32)
config.max_workspace_size = 1 << 30                                                        # bad
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pool_size=1 << 30)
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1)                         # bad
if hasattr(trt.BuilderFlag, "FP16"):
    config.set_flag(trt.BuilderFlag.FP16)
x = network.add_input(name="x", dtype=trt.float32, shape=(1, 3, -1, -1))
network.add_input("x", trt.float32)                                                        # bad
layer = network.add_identity(x)
layer.precision = trt.float16                                                              # bad
layer.num_inputs = 3                                                                       # bad
log.min_severity = trt.ILogger.Severity.VERBOS                                             # bad
def run(context: trt.IExecutionContext, engine: "trt.ICudaEngine | None"):
    context.execute_async_v3(0)
    context.execute_async_v2(0)                                                            # bad
    return engine.create_execution_context().set_input_shape("x", (1,)), engine.num_bindings  # bad
class Monitor(trt.IProgressMonitor):
    def __init__(self):
        trt.IProgressMonitor.__init__(self)
        self.runtime = trt.Runtime(log)
    def step_complete(self, phase_name):                                                   # bad
        return True
    def phase_finish(self, phase_name):
        self.runtime.deserialize_cuda_engine(b"").serialize()
        self.runtime.deserialise(b"")                                                      # bad
@trtp.register("ns::op")
def op(a: trtp.TensorDesc) -> trtp.TensorDesc:
    return trtp.op.ns.op(a) if a.like() else a.liek()                                      # bad
try:
    trt.OnnxParser(network, log).supports_model(b"")
except AttributeError:
    pass
trt.OnnxParser(network, log).supports_model(b"")                                           # bad
trt.nope()  # trt-api: ignore
"""


def self_test(api_path):
    wrong = {i for i, line in enumerate(SELF_TEST.splitlines(), 1) if line.endswith("# bad")}
    found = Checker(Api(api_path), "self-test", SELF_TEST).run()
    lines = {key[1] for key in found}
    for key in sorted(found):
        print(f"self-test:{key[1]}: {found[key]}")
    print(f"self-test: {len(wrong)} lines to find, missed {sorted(wrong - lines)}, wrong {sorted(lines - wrong)}")
    return 0 if lines == wrong else 1


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--api", action="append", help="API listing (JSON); may be given more than once")
    parser.add_argument("--mode", choices=("all", "any"), default="all")
    parser.add_argument("--alias", action="append", default=[], help="a name that always means the module")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("paths", nargs="*", type=pathlib.Path)
    args = parser.parse_args(argv)
    apis = args.api or [str(pathlib.Path(__file__).with_name("api-11.4.json"))]
    if args.self_test:
        return self_test(apis[0])
    if not args.paths:
        parser.error("no files given")
    files = [f for p in args.paths for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    lines, bad = check([Api(p) for p in apis], files, args.mode, args.alias)
    print("\n".join(lines) if lines else f"{len(files)} files checked, nothing unknown")
    return bad or (1 if lines else 0)


if __name__ == "__main__":
    sys.exit(main())
