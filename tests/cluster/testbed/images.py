"""Images without a registry: a base made by mmdebstrap, Dockerfiles built by buildah, archives that nodes import."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import builds, dockerfiles, packages
from .cache import building, keep_newest, key_of, locked
from .errors import BuildError
from .progress import Reporter, run_logged
from .settings import REGISTRY, Settings

FOLDER = Path(__file__).parent / "images"
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*",
            "/usr/lib/*/gconv/*")
EMPTIED = ("var/lib/apt/lists", "var/cache/apt", "var/log")
ARCHIVES_KEPT = 8


def reference(name: str) -> str:
    """The full name of one of our images, as a pod names it."""
    return f"{REGISTRY}/{name}:dev"


class Images:
    """Builds images into archives in the cache."""

    def __init__(self, settings: Settings, reporter: Reporter) -> None:
        self._settings = settings
        self._reporter = reporter
        self._folder = settings.cache / "images"

    def base(self) -> str:
        """Makes the image to start from, unless it is there; returns its name for a Dockerfile's FROM."""
        include = packages.read(FOLDER / "base-packages.txt")
        suite = debian_suite(Path("/etc/os-release").read_text())
        key = key_of(platform.machine(), suite, FOLDER / "base.Dockerfile", *mmdebstrap_command(suite, include, Path("base.tar")))
        name = f"{REGISTRY}/base:{key}"
        context = self._folder / f"base-{key}"
        with building(context) as scratch:
            if scratch is not None:
                with self._reporter.task("image-base", f"Making the base image (Debian {suite}, {', '.join(include)})", 40):
                    log = self._settings.cache / "logs" / "image-base.log"
                    run_logged(mmdebstrap_command(suite, include, scratch / "base.tar"), log, what="Making the base image")
        with locked(self._folder / "base.lock"):
            if not self._has(name):
                self._remove_bases()
                self._build(name, FOLDER / "base.Dockerfile", context, {})
                keep_newest(self._folder, "base-*[0-9a-f]", 1)
        return name

    def build(self, name: str, dockerfile: Path, context: Path, arguments: Mapping[str, str] | None = None) -> Path:
        """Builds an image unless nothing that goes into it has changed; returns its archive.

        The Dockerfile's FROM may be the build argument BASE, which is filled in with the base image.
        """
        dockerfile, context = dockerfile.absolute(), context.absolute()
        given = dict(arguments or {})
        text = dockerfile.read_text()
        if "${BASE}" in text or "$BASE" in text:
            given.setdefault("BASE", self.base())
        words = [f"{key}={value}" for key, value in sorted(given.items())]
        key = key_of(name, text, *words, *(f"{path.relative_to(context)}" for path in dockerfiles.files(dockerfile, context, given)),
                     *dockerfiles.files(dockerfile, context, given))
        target = self._folder / f"{name}-{key}"
        archive = target / "image.tar"
        with building(target) as scratch:
            if scratch is None:
                return archive
            with self._reporter.task(f"image-{name}", f"Building image {reference(name)}", 15):
                stored = f"{REGISTRY}/{name}:{key}"  # of its own, as another checkout may build its image of this name meanwhile
                self._build(stored, dockerfile, context, given)
                self._buildah(["push", f"--signature-policy={self._policy()}", stored,
                               f"oci-archive:{scratch / 'image.tar'}:{reference(name)}"], name)
                self._buildah(["rmi", stored], name)
        keep_newest(self._folder, f"{name}-*[0-9a-f]", ARCHIVES_KEPT)
        return archive

    def of_program(self, name: str) -> Path:
        """The image of a program that is built here and needs nothing else: pause, jaeger."""
        program = builds.binary(self._settings, name)
        return self.build(name, FOLDER / f"{name}.Dockerfile", program.parent)

    def _build(self, name: str, dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> None:
        words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        self._buildah(["build", "--isolation=chroot", "--layers=false", "--force-rm", "--pull-never",
                       f"--signature-policy={self._policy()}", *words, f"--file={dockerfile}", f"--tag={name}", str(context)], name)

    def _remove_bases(self) -> None:
        listed = subprocess.run([*self._command(), "images", "--quiet", f"--filter=reference={REGISTRY}/base"],
                                capture_output=True, text=True, check=False).stdout.split()
        if listed:
            self._buildah(["rmi", "--force", *listed], "base")

    def _has(self, name: str) -> bool:
        return subprocess.run([*self._command(), "inspect", "--type=image", name], capture_output=True, check=False).returncode == 0

    def _buildah(self, words: Sequence[str], name: str) -> None:
        log = self._settings.cache / "logs" / f"image-{name.rpartition('/')[2].partition(':')[0]}-{words[0]}.log"
        run_logged(["nice", "-n", "5", *self._command(), *words], log, what=f"`buildah {words[0]}` of image {name}")

    def _command(self) -> list[str]:
        return ["buildah", "--storage-driver=vfs", f"--root={self._folder / 'storage'}", f"--runroot={self._folder / 'run'}"]

    def _policy(self) -> Path:
        path = self._folder / "policy.json"
        if not path.exists():
            path.write_text(json.dumps(POLICY))
        return path


def debian_suite(os_release: str) -> str:
    """The code name in /etc/os-release."""
    for line in os_release.splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise BuildError("/etc/os-release has no VERSION_CODENAME; the base image is made of the Debian release that this machine runs")


def mmdebstrap_command(suite: str, include: Sequence[str], target: Path) -> list[str]:
    """A minimal Debian with some packages and without documentation, as one tar file.

    Its /usr is merged from the start, which saves the package that merges it and all of Perl.
    """
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    emptied = " ".join(f'"$1/{path}"/*' for path in EMPTIED)
    return ["mmdebstrap", "--variant=minbase", "--mode=root", f"--hook-directory={MERGED_USR}",
            f"--include={','.join(['usr-is-merged', *include])}", *left_out,
            '--aptopt=APT::Install-Recommends "false"', f"--customize-hook=rm -rf {emptied}", suite, str(target)]


def archive_digest(archive: Path) -> tuple[str, str]:
    """The name and the digest of the one image in an archive."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        manifests = json.load(member)["manifests"] if member else []
    if len(manifests) != 1:
        raise BuildError(f"{archive} holds {len(manifests)} images; one is expected, as `testbed image` makes it")
    return manifests[0]["annotations"]["org.opencontainers.image.ref.name"], manifests[0]["digest"]


def available() -> bool:
    """Whether the tools that build images are installed."""
    return all(shutil.which(tool) for tool in ("buildah", "mmdebstrap"))
