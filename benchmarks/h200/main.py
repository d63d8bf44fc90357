"""The command line of ``benchmarks/h200.sh``: measures, packs wheels, or takes them in.

Needs nothing but Python's own library until the first step runs: the machine may be bare.
"""

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from driver import STEPS, Driver, Options
from wheels import PACKAGES, pack, take

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="h200.sh", description="Measures on an NVIDIA GPU; see h200.sh.")
    commands = parser.add_subparsers(dest="command")
    measuring = commands.add_parser("run", help="measure (the default)")
    measuring.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU")
    measuring.add_argument("--seconds", type=float, default=570.0, help="of the whole run [default: 570]")
    measuring.add_argument("--only", default="", help=f"steps, with commas between: {', '.join(s.name for s in STEPS)}")
    measuring.add_argument("--again", action="store_true", help="measure anew what is in the file already")
    measuring.add_argument("--photos", type=Path, help="folder of photos [default: those of scikit-image]")
    measuring.add_argument(
        "--work", type=Path, help="for archives and bundles, 10 GB [default: ctxdeploy-h200 in the temporary folder]"
    )
    measuring.add_argument("-o", "--output", type=Path, help="[default: benchmarks/results/h200.json]")
    packing = commands.add_parser("pack", help="download wheels and cut them into loads")
    packing.add_argument("loads", type=Path)
    packing.add_argument("packages", nargs="*", default=list(PACKAGES), help=f"[default: {' '.join(PACKAGES)}]")
    packing.add_argument("--python-version", default="3.12", help="of that machine [default: 3.12]")
    packing.add_argument("--glibc", default="2.39", help="of that machine [default: 2.39]")
    packing.add_argument("--mib", type=int, default=24, help="of a load [default: 24]")
    packing.add_argument("--needs", action="store_true", help="with what the packages need; they are many and large")
    taking = commands.add_parser("take", help="keep the pieces of a load; install when all are there")
    taking.add_argument("load", type=Path)
    for command in (measuring, taking):
        command.add_argument("--store", type=Path, default=Path.home() / ".cache" / "ctxdeploy-h200", help="of wheels")
    given = sys.argv[1:] or ["run"]
    options = parser.parse_args(
        ["run", *given] if given[0].startswith("-") and given[0] not in ("-h", "--help") else given
    )
    if options.command == "pack":
        for line in pack(
            options.loads, options.packages, options.python_version, options.glibc, options.mib, options.needs
        ):
            print(line)
        return
    if options.command == "take":
        print(take(options.load, options.store))
        return
    output = options.output or ROOT / "benchmarks" / "results" / "h200.json"
    if options.rehearse and options.output is None:
        output = ROOT / "benchmarks" / "work" / "h200-rehearsal.json"
    usual = Path(tempfile.gettempdir()) / "ctxdeploy-h200"
    settings = Options(
        output=output.resolve(),
        work=(options.work or (output.with_suffix(".work") if options.rehearse else usual)).resolve(),
        store=options.store,
        photos=None if options.photos is None else options.photos.resolve(),
        rehearse=options.rehearse,
        seconds=options.seconds,
        only=tuple(name for name in options.only.split(",") if name),
        again=options.again,
    )
    if not options.rehearse and not gpu_there():
        sys.exit("h200.sh: there is no NVIDIA GPU here (libcuda cannot be loaded): run it where one is, or --rehearse")
    sys.exit(Driver(settings).run())


def gpu_there() -> bool:
    """Say whether there is a driver; whether it works is what the step ``machine`` says."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
