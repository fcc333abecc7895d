"""Build: the BPF programs (clang), then the Cython extensions compiled from the same headers.

Everything else about the project is in pyproject.toml; only what setuptools cannot say there is here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOTS = {"wharfinger_api": "crds", "wharfinger_operator": "operator", "wharfinger_cli": "cli",
         "wharfinger_dataplane": "dataplane", "wharfinger_sidecar": "dataplane"}
BPF = Path("dataplane/bpf")
BPF_OBJECT = Path("dataplane/wharfinger_dataplane/wharfinger.bpf.o")
TELEMETRY = Path("dataplane/wharfinger_dataplane/telemetry")
HEADERS = sorted(str(path) for folder in (BPF, TELEMETRY) for path in folder.glob("*.h"))
EXTENSIONS = {"_engine": [], "_records": [], "_maglev": [], "_bpf": ["bpf"], "telemetry._identity": [], "telemetry._sieve": [],
              "telemetry._spans": []}


class BuildWithBpf(build_ext):
    """Compiles dataplane/bpf/wharfinger.bpf.c beside the Python package before the extensions are built."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        target = BPF_OBJECT if in_place else Path(self.build_lib, "wharfinger_dataplane", BPF_OBJECT.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["clang", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-target", "bpf", "-mcpu=v3",
             "-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu", f"-I{BPF}",
             "-c", str(BPF / "wharfinger.bpf.c"), "-o", str(target)], check=True)
        subprocess.run(["llvm-strip", "-g", str(target)], check=True)
        super().run()


def packages() -> tuple[list[str], dict[str, str]]:
    """Names of all packages, and the folder of each: source roots are not packages themselves."""
    names, folders = [], {}
    for package, root in ROOTS.items():
        for name in [package, *(f"{package}.{sub}" for sub in find_packages(f"{root}/{package}"))]:
            names.append(name)
            folders[name] = f"{root}/{name.replace('.', '/')}"
    return names, folders


names, folders = packages()
flags = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"]
setup(
    packages=names,
    package_dir=folders,
    package_data={"wharfinger_dataplane": [BPF_OBJECT.name]},
    ext_modules=cythonize(
        [Extension(f"wharfinger_dataplane.{name}", [f"dataplane/wharfinger_dataplane/{name.replace('.', '/')}.pyx"],
                   include_dirs=[str(BPF), str(TELEMETRY)], depends=HEADERS, libraries=libraries, extra_compile_args=flags)
         for name, libraries in EXTENSIONS.items()],
        compiler_directives={"language_level": 3, "embedsignature": True}, build_dir="build/cython"),
    cmdclass={"build_ext": BuildWithBpf},
)
