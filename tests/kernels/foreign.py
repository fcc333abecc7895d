"""The disks of a guest of another architecture: Debian's own Python and tools, unpacked and not installed;
this virtual environment's packages, the compiled ones as wheels of that architecture; and the checkout, its
extensions cross-compiled. The BPF object is the same."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from kernels import debian, disks
from kernels.disks import PACKAGES_LEFT_OUT, TOP
from testbed.cache import building, key_of
from testbed.progress import Reporter, run_logged

DEBIAN = ("python3", "iproute2", "nftables", "ethtool", "util-linux", "mount", "busybox-static", "libbpf1")
HEADERS = ("python3-dev", "libbpf-dev", "libc6-dev", "linux-libc-dev")
COMPILED = ("pydantic_core", "protobuf", "PyYAML", "hypothesis")
"""Packages with code of the processor that tests import."""
TRIPLETS = {"arm64": "aarch64-linux-gnu"}
WHEELS = {"arm64": ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "manylinux_2_28_aarch64")}


def system(arch: str, cache: Path, reporter: Reporter) -> Path:
    """The disk with Python, packages and tools."""
    root, installed = debian_root(arch, cache, reporter), Path(sysconfig.get_path("purelib"))
    packages = sorted(path.name for path in installed.glob("*.dist-info"))
    target = cache / "kernels" / f"system-{key_of(Path(__file__), root.parent.name, *packages)}"
    with building(target) as scratch:
        if scratch is not None:
            with reporter.task(f"kernels-system-{arch}", f"Making the guests' disk ({arch})", 20):
                _fill(scratch / "tree", root, installed, arch, cache / "logs" / f"kernels-{arch}.log")
                disks.make(scratch / "tree", scratch / "system.ext4", cache / "logs" / f"kernels-{arch}.log")
                shutil.rmtree(scratch / "tree")
    disks.used(target)
    return target / "system.ext4"


def debian_root(arch: str, cache: Path, reporter: Reporter) -> Path:
    """A Debian of this machine's release and that architecture, unpacked: what programs need, and the headers
    to compile with."""
    suite = debian.own_suite()
    command = ["mmdebstrap", "--variant=extract", "--mode=root", "--format=directory",
               f"--architectures={arch}", f"--include={','.join((*DEBIAN, *HEADERS))}",
               '--aptopt=APT::Install-Recommends "false"', suite]
    target = cache / "kernels" / f"debian-{key_of(*command)}"
    with building(target) as scratch:
        if scratch is not None:
            with reporter.task(f"kernels-debian-{arch}", f"Unpacking Debian {suite} for {arch}", 40):
                log = cache / "logs" / f"kernels-{arch}.log"
                run_logged(["timeout", "600", *command, scratch / "root"], log,
                           what=f"Unpacking Debian {suite} for {arch}")
    disks.used(target)
    return target / "root"


def checkout(target: Path, arch: str, root: Path) -> Path:
    """The disk with this checkout, its extensions compiled for that architecture against `root`."""
    log = target.with_suffix(".log")

    def compile_extensions(tree: Path) -> None:
        for source in sorted((TOP / "dataplane").rglob("*.pyx")):
            generated = (tree / source.relative_to(TOP)).with_suffix(".c")
            cython = [sys.executable, "-m", "cython", "-3", f"-I{TOP / 'dataplane'}"]
            run_logged([*cython, source, "-o", generated], log, what=f"Translating {source.name} into C")
            run_logged(_compiler(generated, arch, root), log, what=f"Compiling {source.name} for {arch}")
            generated.unlink()

    return disks.checkout(target, compile_extensions)


def _compiler(source: Path, arch: str, root: Path) -> list[str | Path]:
    """Nothing is linked but libbpf: the interpreter has the rest when it loads an extension."""
    triplet, include = TRIPLETS[arch], root / "usr/include"
    headers = [include / f"python{sysconfig.get_python_version()}", TOP / "dataplane/bpf",
               TOP / "dataplane/wharfinger_dataplane/telemetry", include / triplet]
    libraries = [root / "usr/lib" / triplet / "libbpf.so"] if source.stem == "_bpf" else []
    target = source.with_name(f"{source.stem}.cpython-{_tag()}-{triplet}.so")
    options = "-shared -fPIC -O1 -w -nostdlib -mno-outline-atomics -Wl,--unresolved-symbols=ignore-all"
    return [f"{triplet}-gcc", f"--sysroot={root}", *options.split(), *(f"-I{folder}" for folder in headers),
            source, *libraries, "-o", target]


def _tag() -> str:
    return sysconfig.get_python_version().replace(".", "")


def _fill(tree: Path, root: Path, installed: Path, arch: str, log: Path) -> None:
    left_out = ("dev", "doc", "man", "locale", "include", "gconv", "*.a", "perl*", "config-*", "test",
                "tests")
    shutil.copytree(root, tree, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    for name in disks.FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    disks.link_applets(tree, "/bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "var/run").unlink(missing_ok=True)
    (tree / "var/run").symlink_to("/run")
    shutil.copytree(installed, tree / "packages", symlinks=True,
                    ignore=shutil.ignore_patterns(*PACKAGES_LEFT_OUT, "*.so"))
    wheels = [f"--platform={platform}" for platform in WHEELS[arch]]
    wanted = [f"{name}=={version(name)}" for name in COMPILED]
    run_logged([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--upgrade", "--only-binary=:all:", f"--target={tree / 'packages'}", *wheels, *wanted], log,
               what=f"Fetching {', '.join(wanted)} for {arch}")
