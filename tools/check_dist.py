"""Try a wheel as a user would: install it in a fresh environment, index the sample photos, query one of them.

python tools/check_dist.py dist
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PHOTOS = """
from pathlib import Path
from PIL import Image
from ctxdeploy.core.samples import NAMES, sample_photo
Path("photos").mkdir()
for name in NAMES:
    Image.fromarray(sample_photo(name)).save(f"photos/{name}.jpg", quality=92)
Image.fromarray(sample_photo("coffee")[20:-20, 40:-30]).save("query.jpg", quality=85)
"""


def main() -> int:
    """Return 0 if the photo that the query was cut from is found first."""
    folder = Path(sys.argv[1]).resolve()
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        sys.stderr.write(f"{folder} holds {len(wheels)} wheels and {len(sources)} sdists, not one of each\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-dist-") as work:
        environment = Path(work, "venv")
        venv.create(environment, with_pip=True)
        programs = environment / ("Scripts" if sys.platform == "win32" else "bin")

        def run(*command: str) -> str:
            done = subprocess.run([programs / command[0], *command[1:]], cwd=work, stdout=subprocess.PIPE, check=True)
            return done.stdout.decode()

        run("pip", "install", "-q", f"{wheels[0]}[cpu,demo]")
        run("python", "-c", PHOTOS)
        version = run("ctxdeploy", "--version").split()[-1]
        run("ctxdeploy", "index", "photos", "-q")
        answer = json.loads(run("ctxdeploy", "query", "query.jpg", "--json"))
    first = answer["results"][0]["name"]
    if version not in wheels[0].name or first != "coffee.jpg":
        sys.stderr.write(f"version {version}, first hit {first}: expected that of {wheels[0].name}, and coffee.jpg\n")
        return 1
    sys.stdout.write(f"{wheels[0].name}: installed in a fresh environment, indexed and queried\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
