"""What a guest boots from: an initial file system with the kernel's modules, a disk with this machine's own
Python and tools, a disk with the checkout. The first two are kept in the cache under a name made of what went
into them; the third is made for each run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

from kernels.debian import Unpacked
from testbed.cache import building, keep_newest, key_of
from testbed.errors import BuildError
from testbed.progress import Reporter, run_logged

TOP = Path(__file__).parents[2]
GUEST = Path(__file__).parent / "guest"
MODULES = ("virtio_pci", "virtio_blk", "veth", "bridge", "cls_bpf", "sch_ingress", "nf_tables",
           "nft_chain_nat", "nft_nat", "nft_masq", "tcp_diag", "inet_diag")
TOOLS = ("ip", "tc", "ss", "nft", "nsenter", "ethtool", "mount", "umount")
BUSYBOX = Path("/usr/bin/busybox")
TREE = ("crds", "dataplane", "tests", "pyproject.toml")
"""What of the checkout tests need."""
PACKAGES_LEFT_OUT = ("kubernetes", "pip", "Cython", "setuptools", "ruff", "kopf", "aiohttp", "cryptography",
                     "__editable__*")
"""Of the virtual environment: large, or pointing into the checkout, and of no use to these tests."""
STDLIB_LEFT_OUT = ("test", "tests", "idlelib", "ensurepip", "lib2to3", "config-*", "dist-packages")
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "etc", "var/tmp", "root", "usr/bin", "usr/sbin", "usr/lib",
           "usr/lib64", "wharfinger")
MERGED = ("bin", "sbin", "lib", "lib64")
KEPT = 4
"""Disks and initial file systems in the cache, of each: two kernels' and a few other checkouts'."""
SLACK = 1.3
"""Room for a file system's own tables, of what its files take."""


def initial(kernel: Unpacked, cache: Path, busybox: Path = BUSYBOX) -> Path:
    """The initial file system of a kernel."""
    key = key_of(kernel.root.name, *MODULES, Path(__file__), GUEST / "init", busybox)
    target = cache / "kernels" / f"initial-{key}"
    with building(target) as scratch:
        if scratch is not None:
            tree = scratch / "tree"
            for name in ("bin", "modules", "proc", "sys", "dev", "new"):
                (tree / name).mkdir(parents=True)
            shutil.copy2(busybox, tree / "bin" / "busybox")
            shutil.copy2(GUEST / "init", tree / "init")
            for number, (name, data) in enumerate(kernel.modules(MODULES).items()):
                (tree / "modules" / f"{number:02}-{name}.ko").write_bytes(data)
            names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
            with (scratch / "initial.cpio").open("wb") as out:
                subprocess.run([BUSYBOX, "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(),
                               stdout=out, stderr=subprocess.PIPE, check=True)
            shutil.rmtree(tree)
    used(target)
    return target / "initial.cpio"


def system(cache: Path, reporter: Reporter) -> Path:
    """The disk with Python, the packages of this virtual environment, and the tools that tests call."""
    stdlib, installed = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    interpreter = stdlib.parents[1] / "bin" / f"python{sysconfig.get_python_version()}"
    programs = [interpreter, *(_tool(name) for name in TOOLS)]
    libraries = sorted({path.resolve() for path in needed([*programs, *_extensions(TOP / "dataplane")])})
    packages = sorted(path.name for path in installed.glob("*.dist-info"))
    key = key_of(Path(__file__), BUSYBOX, *programs, *libraries, *packages)
    target = cache / "kernels" / f"system-{key}"
    with building(target) as scratch:
        if scratch is not None:
            with reporter.task("kernels-system", "Making the guests' disk", 15):
                _fill(scratch / "tree", programs, stdlib, installed)
                make(scratch / "tree", scratch / "system.ext4", cache / "logs" / "kernels-system.log")
                shutil.rmtree(scratch / "tree")
    used(target)
    return target / "system.ext4"


def checkout(target: Path, complete: Callable[[Path], None] = lambda tree: None) -> Path:
    """The disk with this checkout, as built; `complete` may add to the folder that becomes the disk."""
    tree = target.with_suffix(".tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.c", "go", "node_modules")
    for name in TREE:
        source, copy = TOP / name, tree / name
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(source, copy)
    complete(tree)
    make(tree, target, target.with_suffix(".log"))
    shutil.rmtree(tree)
    return target


def used(target: Path) -> None:
    """Keeps what was used last, of this kind."""
    target.touch()
    keep_newest(target.parent, f"{target.name.partition('-')[0]}-*[0-9a-f]", KEPT)


def _tool(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not found:
        raise BuildError(f"{name} is not installed: run `make packages`")
    return Path(found)


def _fill(tree: Path, programs: list[Path], stdlib: Path, installed: Path) -> None:
    for name in FOLDERS:
        (tree / name).mkdir(parents=True)
    (tree / "var/run").symlink_to("/run")
    for name in MERGED:
        (tree / name).symlink_to(f"usr/{name}")
    shutil.copytree(stdlib, tree / stdlib.relative_to("/"), symlinks=True,
                    ignore=shutil.ignore_patterns(*STDLIB_LEFT_OUT))
    shutil.copytree(installed, tree / "packages", symlinks=True,
                    ignore=shutil.ignore_patterns(*PACKAGES_LEFT_OUT))
    link_applets(tree, "busybox")
    for program in (BUSYBOX, *programs):
        _copy(program, tree)
    (tree / "usr/bin/python3").unlink(missing_ok=True)
    (tree / "usr/bin/python3").symlink_to(programs[0].name)
    extensions = [*_extensions(tree), *_extensions(TOP / "dataplane")]
    for library in needed([*programs, *extensions]):
        _copy(library, tree)


def link_applets(tree: Path, busybox: str) -> None:
    """Busybox under every name that it knows and nothing else has, in /usr/bin; `busybox`: where that is,
    seen from there."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if not any((tree / folder / applet).exists() for folder in ("usr/bin", "usr/sbin", "bin", "sbin")):
            (tree / "usr/bin" / applet).symlink_to(busybox)


def _extensions(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.so"))


def needed(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that programs and libraries are linked with, the loader among them."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", said, re.M)}


def _copy(file: Path, tree: Path) -> None:
    """The file that a name leads to, under that name; folders as this machine has them, behind /bin and its
    like."""
    target = tree / (file.parent.resolve() / file.name).relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(file.resolve(), target)


def make(tree: Path, target: Path, log: Path) -> None:
    """A disk with what is in a folder."""
    size = sum(4096 + path.lstat().st_size for path in tree.rglob("*"))
    mebibytes = int(size * SLACK / 2**20) + 16
    run_logged(
        ["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", tree, target, f"{mebibytes}M"],
        log,
        what=f"Making the disk {target.name}",
    )
